"""Binding: runs from and into buffers that stay where they are on the device, as CUDA graphs ask for.

A CUDA graph is what a run sends to the GPU, recorded once and played again in one call: for sizes of batches that come
again and again. See https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
from numpy.typing import NDArray

from netkit.core.model_card import ModelCard
from netkit.infer.model.onnx_file import INPUT, OUTPUTS
from netkit.infer.runtime.ort import ort

KEPT = 4  # sizes whose buffers stay; a run over many files needs one, and its halves where memory is short
GRAPH, NO_GRAPH = "gpu_graph_id", "-1"  # ONNX Runtime's option of a run: which graph to record or play

Floats = NDArray[np.float32]


class Bindings:
    """Buffers for an open session, a set for each size of batches, on the `device` "cuda" (or "cpu").

    Whichever threads ask, one thread runs them all: ONNX Runtime records and plays for one thread only.
    """

    def __init__(self, runtime: ort.InferenceSession, card: ModelCard, device: str) -> None:
        self._runtime, self._card, self._device = runtime, card, device
        self._bound: dict[tuple[int, bool], _Binding] = {}  # by size and whether recorded; the last used is last
        self._graphs = count()
        self._thread = ThreadPoolExecutor(1, "binding")

    def run(self, images_u8: NDArray[np.uint8], *, size: int | None) -> tuple[Floats, Floats]:
        """Logits and probabilities of images (N, channels, height, width), which are padded to `size` where fewer.

        With a `size` the run is recorded, and played again from then on.
        """
        return self._thread.submit(self._run, images_u8, size).result()

    def _run(self, images_u8: NDArray[np.uint8], size: int | None) -> tuple[Floats, Floats]:
        key = (size, True) if size and size >= len(images_u8) else (len(images_u8), False)
        binding = self._bound.pop(key, None) or self._new(*key)
        answers = binding.run(images_u8)  # one that fails is not kept: memory may be short of what its buffers take
        self._bound[key] = binding
        while len(self._bound) > KEPT:
            del self._bound[next(iter(self._bound))]
        return answers

    def _new(self, size: int, recorded: bool) -> "_Binding":
        graph = str(next(self._graphs)) if recorded else NO_GRAPH  # never one of buffers that are gone
        return _Binding(self._runtime, self._card, self._device, size=size, graph=graph)


class _Binding:
    def __init__(self, runtime: ort.InferenceSession, card: ModelCard, device: str, *, size: int, graph: str) -> None:
        self._runtime, self.graph = runtime, graph
        shape = size, card.channels, card.height, card.width
        self._padded = np.zeros(shape, np.uint8)
        self._images = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device)
        answers = size, len(card.labels)
        self._outputs = [ort.OrtValue.ortvalue_from_shape_and_type(answers, np.float32, device) for _ in OUTPUTS]
        self._binding = runtime.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._images)
        for name, value in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(GRAPH, graph)

    def run(self, images_u8: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        count = len(images_u8)
        self._padded[:count] = images_u8
        self._images.update_inplace(self._padded)
        self._runtime.run_with_iobinding(self._binding, self._options)
        logits, probabilities = (value.numpy()[:count].copy() for value in self._outputs)
        return logits, probabilities
