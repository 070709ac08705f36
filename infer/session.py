"""Session: a model opened by ONNX Runtime on a device that really runs it, or the reason why it cannot."""

import logging
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from infer.model import INPUT, OUTPUTS, Model
from nets.card import ModelCard
from nets.errors import DeviceError, ModelError
from nets.machine import missing_cuda_driver, usable_cores

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
FATAL = 4  # ONNX Runtime's log level; its faults reach the user as exceptions, its warnings are of no use to them


@dataclass(frozen=True)
class Session:
    """An open model. `provider` is ONNX Runtime's name for what runs it, as the open session reports it."""

    model: Model
    provider: str
    _runtime: ort.InferenceSession

    @property
    def card(self) -> ModelCard:
        return self.model.card

    def run(self, images_u8: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits and probabilities, each (N, classes), of images (N, channels, height, width)."""
        logits, probabilities = self._runtime.run(OUTPUTS, {INPUT: images_u8})
        return logits, probabilities


def open_session(model: Model, *, device: str, threads: int | None = None) -> Session:
    """Open `model` on "cpu", "cuda", or "auto": CUDA where it works, else the CPU, with a line that names the cause.

    `threads` are those of one CPU operator; None takes every core that this process may use. Raises DeviceError, with
    the cause, where CUDA is asked for and cannot be used, ModelError where ONNX Runtime refuses the model.
    """
    if device != "cpu":
        try:
            return _open_on_cuda(model)
        except DeviceError as fault:
            if device == "cuda":
                raise
            logger.info("running on the CPU: %s", fault)
    return _open(model, CPU, threads or usable_cores())


def _open_on_cuda(model: Model) -> Session:
    """DeviceError names the first thing that is missing: driver, package, or CUDA's own libraries."""
    if fault := missing_cuda_driver():
        raise DeviceError(fault)
    if CUDA not in ort.get_available_providers():
        raise DeviceError(f"onnxruntime {ort.__version__} here is the CPU package; netkit's extra [gpu] has CUDA's")
    ort.preload_dlls()  # 260 MB: only where there is a driver to use them
    session = _open(model, CUDA, 1)
    # ONNX Runtime falls back to the CPU without a word; what it lists as available proves nothing
    if session.provider != CUDA:
        raise DeviceError(
            f"onnxruntime {ort.__version__} could not load its CUDA provider; netkit's extra [gpu] installs the CUDA "
            "and cuDNN libraries that it needs"
        )
    return session


def _open(model: Model, provider: str, threads: int) -> Session:
    ort.set_default_logger_severity(FATAL)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    try:
        runtime = ort.InferenceSession(model.content, options, providers=[provider])
    except Exception as fault:  # ONNX Runtime's exceptions have no parent of their own
        raise ModelError(f"{model.name}: ONNX Runtime {ort.__version__} refuses it: {fault}") from None
    return Session(model, runtime.get_providers()[0], runtime)
