"""Session: a model opened by ONNX Runtime on a device that really runs it, or the reason why it cannot."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DeviceError, ModelError, OutOfMemoryError
from netkit.core.model_card import ModelCard
from netkit.core.system import missing_cuda_driver, usable_cores
from netkit.infer.model.certificate import CPU, CUDA
from netkit.infer.model.onnx_file import INPUT, OUTPUTS, Model
from netkit.infer.runtime.io_binding import Bindings
from netkit.infer.runtime.ort import ort, preload_cuda

logger = logging.getLogger(__name__)

CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}  # no search for each shape; float32 is float32
RECORDING = {"enable_cuda_graph": "1"}
SHORT_OF_MEMORY = re.compile(
    r"failed to allocate|out of memory|bad_alloc|bad allocation|alloc\w*[ _]failed", re.IGNORECASE
)
FATAL = 4  # ONNX Runtime's log level; its faults reach the user as exceptions, its warnings are of no use to them


def device_of(provider: str) -> str:
    """What --device, and PyTorch, call the kind of device that a provider runs on."""
    return "cuda" if provider == CUDA else "cpu"


@dataclass(frozen=True)
class Session:
    """An open model. `provider` is ONNX Runtime's name for what runs it, as the open session reports it."""

    model: Model
    provider: str
    _runtime: ort.InferenceSession
    _bindings: Bindings | None = None

    @property
    def card(self) -> ModelCard:
        return self.model.card

    @property
    def can_fork(self) -> bool:
        """Whether a fork of this process can run it: one that runs in the thread that asks, on a CPU, on Linux."""
        alone = self._runtime.get_session_options().intra_op_num_threads == 1
        return alone and self.provider == CPU and sys.platform == "linux"

    def run(
        self, images_u8: NDArray[np.uint8], *, size: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits and probabilities, each (N, classes), of images (N, channels, height, width).

        `size` is that of the batches that come again and again: CUDA, which prepares each size anew, pads fewer images
        to it. Several threads may ask at once. Raises ModelError where the model fails, or does not give one row for
        each image.
        """
        try:
            if self._bindings:
                logits, probabilities = self._bindings.run(images_u8, size=size)
            else:
                logits, probabilities = self._runtime.run(OUTPUTS, {INPUT: images_u8})
        except Exception as fault:  # ONNX Runtime's exceptions have no parent of their own
            short = isinstance(fault, MemoryError) or SHORT_OF_MEMORY.search(str(fault))
            kind = OutOfMemoryError if short else ModelError
            raise kind(f"{self.model.name}: fails in ONNX Runtime {ort.__version__}: {_told(fault)}") from None
        wanted = len(images_u8), len(self.card.labels)
        if logits.shape != wanted or probabilities.shape != wanted:
            raise ModelError(
                f"{self.model.name}: gives logits {logits.shape} and probabilities {probabilities.shape} for "
                f"{len(images_u8)} images; its card says {wanted}"
            )
        return logits, probabilities


def open_session(model: Model, *, device: str, threads: int | None = None, optimised: bool = True) -> Session:
    """Open `model` on "cpu", "cuda", or "auto": CUDA where it works, else the CPU, with a line that names the cause.

    `threads` are those of one CPU operator, at most one for each core that this process may use, and that many by
    default. `optimised`: whether ONNX Runtime may rewrite the graph. Raises DeviceError, with the cause, where CUDA is
    asked for and cannot be used, ModelError where ONNX Runtime refuses the model.
    """
    if device != "cpu":
        try:
            return _open_on_cuda(model, optimised)
        except DeviceError as fault:
            if device == "cuda":
                raise
            logger.info("running on the CPU: %s", fault)
    cores = usable_cores()
    if threads and threads > cores:
        logger.info("using %s threads: more than there are cores would only slow each other down", cores)
    return _open(model, CPU, min(threads or cores, cores), optimised)


def open_sessions(
    model: Model, *, device: str, threads: int | None = None, optimised: bool = True
) -> Iterator[Session]:
    """Sessions on that device; for "auto" on each that works here, the CPU first. Errors as `open_session` has them."""
    if device != "auto":
        yield open_session(model, device=device, threads=threads, optimised=optimised)
        return
    yield open_session(model, device="cpu", threads=threads, optimised=optimised)
    with suppress(DeviceError):
        yield open_session(model, device="cuda", threads=threads, optimised=optimised)


def _open_on_cuda(model: Model, optimised: bool) -> Session:
    """DeviceError names the first thing that is missing: driver, package, or CUDA's own libraries."""
    if fault := missing_cuda_driver():
        raise DeviceError(fault)
    if CUDA not in ort.get_available_providers():
        raise DeviceError(f"onnxruntime {ort.__version__} here is the CPU package; netkit's extra [gpu] has CUDA's")
    told = preload_cuda()  # only where there is a driver to use them
    try:
        session = _open_recording(model, optimised)
        # ONNX Runtime falls back to the CPU without a word; what it lists as available proves nothing
        if session.provider != CUDA:
            raise DeviceError(
                f"onnxruntime {ort.__version__} could not load its CUDA provider; netkit's extra [gpu] installs the "
                f"CUDA and cuDNN libraries that it needs{''.join(f': {line}' for line in told[:1])}"
            )
        card = model.card
        session.run(np.zeros((1, card.channels, card.height, card.width), np.uint8))  # cuDNN is loaded only now
    except ModelError as fault:
        raise DeviceError(f"CUDA cannot run it: {fault}") from None
    return session


def _open_recording(model: Model, optimised: bool) -> Session:
    """With CUDA graphs; without, where some operator runs on the CPU only."""
    try:
        return _open(model, (CUDA, {**CUDA_OPTIONS, **RECORDING}), 1, optimised)
    except ModelError:
        return _open(model, (CUDA, CUDA_OPTIONS), 1, optimised)


def _open(model: Model, provider: str | tuple[str, dict[str, str]], threads: int, optimised: bool) -> Session:
    ort.set_default_logger_severity(FATAL)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    # the bytes that were checked as ONNX could be a model of ONNX Runtime's own format as well, and another one
    options.add_session_config_entry("session.load_model_format", "ONNX")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    try:
        # without fallback: it would go on elsewhere, with a line on stdout, where rows are
        runtime = ort.InferenceSession(
            model.content, options, providers=[provider], enable_fallback=0, read_config_from_model=0
        )
    except Exception as fault:  # as above
        raise ModelError(f"{model.name}: ONNX Runtime {ort.__version__} refuses it: {_told(fault)}") from None
    opened, *_ = runtime.get_providers()
    return Session(model, opened, runtime, Bindings(runtime, model.card, "cuda") if opened == CUDA else None)


def _told(fault: Exception) -> str:
    """What ONNX Runtime says is wrong, without the places in its own source code."""
    first, *_ = str(fault).strip().splitlines() or [""]
    return re.sub(r"(^\[ONNXRuntimeError\] : \d+ : \w+ : )|(\S+\.(cc|h):\d+ .*?\) )", "", first)
