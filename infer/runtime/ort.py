"""ONNX Runtime, imported with its telemetry off: it would write a description of this machine to the home folder."""

import os
from contextlib import redirect_stdout
from io import StringIO

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
import onnxruntime as ort

__all__ = ["ort", "preload_cuda"]


def preload_cuda() -> list[str]:
    """Load the CUDA and cuDNN libraries (260 MB); returns one message for each that cannot be loaded."""
    with redirect_stdout(StringIO()) as printed:  # ONNX Runtime prints the messages to stdout, where results go
        ort.preload_dlls()
    return printed.getvalue().splitlines()
