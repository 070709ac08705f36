"""ONNX Runtime: sessions, IO binding, benchmark and diagnosis."""
