"""Reading and verifying an .onnx file, with its certificate and probes."""
