"""ONNX Runtime, imported with its telemetry off, which would write a description of this machine to the home folder."""

import os
from contextlib import redirect_stdout
from io import StringIO

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported
import onnxruntime as ort

__all__ = ["ort", "preload_cuda"]


def preload_cuda() -> list[str]:
    """Load the CUDA and cuDNN libraries (260 MB). Returns one message for each library that cannot be loaded."""
    with redirect_stdout(StringIO()) as printed:  # ONNX Runtime prints the messages to stdout, which is for results
        ort.preload_dlls()
    return printed.getvalue().splitlines()
