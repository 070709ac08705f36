"""Export of a trained network to ONNX, with a parity check against PyTorch.

exporter   converts a network, compares the model with PyTorch, and writes the file only if it passes
convert    converts a network and its model card to the bytes of an ONNX model
candidates models of one network after different graph passes
passes/    rewrites the ONNX graph for speed
quantize   makes the fp16 and int8 variants
parity/    compares a model with PyTorch in float64, chooses the probe images, writes parity.md
"""
