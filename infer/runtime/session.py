"""Session: a model opened by ONNX Runtime on the requested device, without silent fallback."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DeviceError, ModelError, OutOfMemoryError, first_line
from netkit.core.model_card import ModelCard
from netkit.core.system import missing_cuda_driver, usable_cores
from netkit.infer.model.onnx_file import INPUT, OUTPUTS, Model
from netkit.infer.runtime.io_binding import Bindings
from netkit.infer.runtime.ort import ort, preload_cuda
from netkit.infer.runtime.providers import CPU, CUDA

logger = logging.getLogger(__name__)

CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}  # no search for each shape; no TF32
CUDA_GRAPH_OPTIONS = {"enable_cuda_graph": "1"}
OUT_OF_MEMORY = re.compile(
    r"failed to allocate|out of memory|bad_alloc|bad allocation|alloc\w*[ _]failed", re.IGNORECASE
)
LOG_FATAL = 4  # ONNX Runtime's log level: errors are raised as exceptions, and its warnings do not help users


@dataclass(frozen=True)
class Session:
    """An open model.

    `provider` is ONNX Runtime's name for the device, as reported by its session, `runtime`. `bindings` holds the fixed
    buffers that runs on CUDA use.
    """

    model: Model
    provider: str
    runtime: ort.InferenceSession
    bindings: Bindings | None = None

    @property
    def card(self) -> ModelCard:
        return self.model.card

    @property
    def can_fork(self) -> bool:
        """Whether a forked process can run the session: on Linux, on the CPU, and only if it starts no threads."""
        single = self.runtime.get_session_options().intra_op_num_threads == 1
        return single and self.provider == CPU and sys.platform == "linux"

    def run(
        self, images_u8: NDArray[np.uint8], *, size: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities, float32 (N, classes), of images uint8 (N, channels, height, width).

        `size` is the batch size of a longer run. On CUDA, smaller batches are padded to it, because each new batch size
        takes time to prepare. This method is thread-safe. Raises ModelError if the model fails or does not return one
        row per image, OutOfMemoryError if memory does not suffice for N images.
        """
        try:
            if self.bindings:
                logits, probabilities = self.bindings.run(images_u8, size=size)
            else:
                logits, probabilities = self.runtime.run(OUTPUTS, {INPUT: images_u8})
        except Exception as exc:  # ONNX Runtime's exceptions have no common base class
            out_of_memory = isinstance(exc, MemoryError) or OUT_OF_MEMORY.search(str(exc))
            error = OutOfMemoryError if out_of_memory else ModelError
            raise error(f"{self.model.name}: ONNX Runtime {ort.__version__} fails: {_message(exc)}") from None
        expected = len(images_u8), len(self.card.labels)
        if logits.shape != expected or probabilities.shape != expected:
            raise ModelError(
                f"{self.model.name}: returns logits {logits.shape} and probabilities {probabilities.shape} for "
                f"{len(images_u8)} images; the model card requires {expected}"
            )
        return logits, probabilities


def open_session(model: Model, *, device: str, threads: int | None = None, optimised: bool = True) -> Session:
    """Open `model` on `device`: "cpu", "cuda", or "auto" for CUDA if it works and otherwise the CPU.

    If "auto" falls back to the CPU, it logs one line with the cause. `threads` is the number of threads that run one
    operator on the CPU: by default, and at most, one for each usable core. `optimised` lets ONNX Runtime rewrite the
    graph. Raises DeviceError with the cause if "cuda" cannot be used, ModelError if ONNX Runtime rejects the model.
    """
    if device != "cpu":
        try:
            return _open_on_cuda(model, optimised)
        except DeviceError as exc:
            if device == "cuda":
                raise DeviceError(f"--device cuda: {exc}; pass --device cpu to use the CPU") from None
            logger.info("running on the CPU (%s)", exc)
    cores = usable_cores()
    if threads and threads > cores:
        logger.info("using %s threads, one for each core: more would be slower", cores)
    return _open(model, CPU, min(threads or cores, cores), optimised)


def open_sessions(
    model: Model, *, device: str, threads: int | None = None, optimised: bool = True
) -> Iterator[Session]:
    """Yield a session on `device`; for "auto", on the CPU and then on CUDA if it works."""
    if device != "auto":
        yield open_session(model, device=device, threads=threads, optimised=optimised)
        return
    yield open_session(model, device="cpu", threads=threads, optimised=optimised)
    with suppress(DeviceError):
        yield open_session(model, device="cuda", threads=threads, optimised=optimised)


def _open_on_cuda(model: Model, optimised: bool) -> Session:
    """Raises DeviceError with the first cause found: no driver, a package without CUDA, or missing CUDA libraries."""
    if message := missing_cuda_driver():
        raise DeviceError(message)
    if CUDA not in ort.get_available_providers():
        raise DeviceError(
            f"onnxruntime {ort.__version__} is installed without CUDA; 'netkit doctor' prints how to install it"
        )
    missing_libraries = preload_cuda()
    try:
        session = _open_with_cuda_graphs(model, optimised)
        # ONNX Runtime may fall back to the CPU silently, even if it lists CUDA as available
        if session.provider != CUDA:
            raise DeviceError(
                f"onnxruntime {ort.__version__} cannot load its CUDA provider"
                f"{''.join(f': {line}' for line in missing_libraries[:1])}; "
                "'netkit doctor' prints how to install the CUDA and cuDNN libraries"
            )
        card = model.card
        session.run(np.zeros((1, card.channels, card.height, card.width), np.uint8))  # loads cuDNN
    except ModelError as exc:
        raise DeviceError(f"CUDA cannot run the model: {exc}") from None
    return session


def _open_with_cuda_graphs(model: Model, optimised: bool) -> Session:
    """Open on CUDA with CUDA graphs, or without them if an operator runs on the CPU only."""
    try:
        return _open(model, (CUDA, {**CUDA_OPTIONS, **CUDA_GRAPH_OPTIONS}), 1, optimised)
    except ModelError:
        return _open(model, (CUDA, CUDA_OPTIONS), 1, optimised)


def _open(model: Model, provider: str | tuple[str, dict[str, str]], threads: int, optimised: bool) -> Session:
    ort.set_default_logger_severity(LOG_FATAL)
    options = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL
    options.intra_op_num_threads = threads
    # the same bytes can be both a valid ONNX model and another model in ONNX Runtime's own format
    options.add_session_config_entry("session.load_model_format", "ONNX")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    try:
        # enable_fallback=1 would print a line to stdout, which is for results, and continue on another provider
        runtime = ort.InferenceSession(
            model.content, options, providers=[provider], enable_fallback=0, read_config_from_model=0
        )
    except Exception as exc:  # ONNX Runtime's exceptions have no common base class
        raise ModelError(f"{model.name}: ONNX Runtime {ort.__version__} rejects it: {_message(exc)}") from None
    used, *_ = runtime.get_providers()
    return Session(model, used, runtime, Bindings(runtime, model.card, "cuda") if used == CUDA else None)


def _message(exc: Exception) -> str:
    """Return the first line of ONNX Runtime's message, without its error code and source code locations."""
    return re.sub(r"(^\[ONNXRuntimeError\] : \d+ : \w+ : )|(\S+\.(cc|h):\d+ .*?\) )", "", first_line(exc))
