"""ONNX Runtime, imported so that it keeps to itself: its telemetry would note this machine in the home folder."""

import os
from contextlib import redirect_stdout
from io import StringIO

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read while it is imported
import onnxruntime as ort

__all__ = ["ort", "preload_cuda"]


def preload_cuda() -> list[str]:
    """Load the libraries of CUDA and cuDNN (260 MB), and give the lines that tell which cannot be loaded."""
    with redirect_stdout(StringIO()) as told:  # it prints them, where rows are to be
        ort.preload_dlls()
    return told.getvalue().splitlines()
