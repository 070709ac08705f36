"""The .onnx file: reading it, its certificate and probes, and verifying it."""
