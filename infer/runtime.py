"""ONNX Runtime, imported so that it keeps to itself: its telemetry would note this machine in the home folder."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read while it is imported
import onnxruntime as ort

__all__ = ["ort"]
