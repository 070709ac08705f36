"""From a trained network to an .onnx file that was checked against PyTorch.

exporter   convert, compare with PyTorch, and write the file only if it passes
convert    network and model card -> the bytes of an ONNX model
passes/    rewrites of the ONNX graph that make it faster
quantize   fp16 and int8 variants
parity/    the comparison with PyTorch in float64, the probe images, parity.md
"""
