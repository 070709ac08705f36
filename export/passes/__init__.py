"""Graph passes: the same function by operators that ONNX Runtime runs faster."""
