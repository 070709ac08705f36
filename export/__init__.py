"""From a trained net to a proven .onnx file.

convert     net and card -> the bytes of an ONNX model: pixels in, logits and probabilities out
parity      how far those bytes, run as users run them, are from the net in float64
divergence  where they part, if they do
probes      which images the file carries, to prove itself by
variants    the same net in fewer bits
report      the page and the table for people
publish     convert, prove, and only then give the file its name
"""
