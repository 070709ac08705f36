"""The parity check, which compares an exported model with PyTorch in float64.

reference   computes PyTorch's float64 logits on test images and synthetic images, and its float32 error
compare     compares an open ONNX Runtime session with that reference
divergence  finds the first module whose output differs, for the error message
samples     chooses the test images that a model carries as probes
report      writes parity.md, and collects the numbers for a table of variants
"""
