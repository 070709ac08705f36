"""ONNX Runtime: sessions, io binding, benchmark and diagnosis."""
