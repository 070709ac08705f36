"""The parity check: how far an exported model is from PyTorch in float64.

reference   PyTorch's logits on test images and synthetic images, and the error of its own float32
compare     an open ONNX Runtime session against that reference
divergence  the first module whose output differs, for the error message
samples     which test images a model carries as probes
report      parity.md, and the numbers for a table of variants
"""
