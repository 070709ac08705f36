"""From a trained net to a proven .onnx file.

convert  net and card -> the bytes of an ONNX model: pixels in, logits and probabilities out
parity   how far those bytes, run as users run them, are from the net in float64
publish  convert, prove, and only then give the file its name
"""
