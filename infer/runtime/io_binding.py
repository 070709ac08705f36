"""IO binding: runs with fixed input and output buffers on the device, which CUDA graphs require.

A CUDA graph records the work that a run sends to the GPU, and replays it in one call for later batches of the same
size. See https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
from numpy.typing import NDArray

from netkit.core.model_card import ModelCard
from netkit.infer.model.onnx_file import INPUT, OUTPUTS
from netkit.infer.runtime.ort import ort

MAX_BINDINGS = 4  # batch sizes; a run over many files needs one, and smaller ones if memory does not suffice
GRAPH_ID, NO_GRAPH = "gpu_graph_id", "-1"  # ONNX Runtime's run option that names the graph to record or replay

Floats = NDArray[np.float32]


class Bindings:
    """The buffers of an open session, one set for each batch size, on `device` "cuda" or "cpu".

    All runs are executed by one thread, because ONNX Runtime must replay a graph in the thread that recorded it.
    """

    def __init__(self, runtime: ort.InferenceSession, card: ModelCard, device: str) -> None:
        self._runtime, self._card, self._device = runtime, card, device
        self.by_size: dict[tuple[int, bool], _Binding] = {}  # by (batch size, recorded), the most recently used last
        self._graph_ids = count()
        self._thread = ThreadPoolExecutor(1, "binding")

    def run(self, images_u8: NDArray[np.uint8], *, size: int | None) -> tuple[Floats, Floats]:
        """Return logits and probabilities of images (N, channels, height, width).

        With a `size` of at least N, the images are padded to `size`; later runs replay the first one.
        """
        return self._thread.submit(self._run, images_u8, size).result()

    def _run(self, images_u8: NDArray[np.uint8], size: int | None) -> tuple[Floats, Floats]:
        key = (size, True) if size and size >= len(images_u8) else (len(images_u8), False)
        binding = self.by_size.pop(key, None) or self._bind(*key)
        outputs = binding.run(images_u8)  # if it fails, the binding is dropped: its buffers may exceed the memory
        self.by_size[key] = binding
        while len(self.by_size) > MAX_BINDINGS:
            del self.by_size[next(iter(self.by_size))]
        return outputs

    def _bind(self, size: int, recorded: bool) -> "_Binding":
        graph_id = str(next(self._graph_ids)) if recorded else NO_GRAPH  # never reused: a graph is tied to its buffers
        return _Binding(self._runtime, self._card, self._device, size=size, graph_id=graph_id)


class _Binding:
    def __init__(
        self, runtime: ort.InferenceSession, card: ModelCard, device: str, *, size: int, graph_id: str
    ) -> None:
        self._runtime, self.graph_id = runtime, graph_id
        input_shape, output_shape = (size, card.channels, card.height, card.width), (size, len(card.labels))
        self._padded_u8 = np.zeros(input_shape, np.uint8)
        allocate = ort.OrtValue.ortvalue_from_shape_and_type
        self._images = allocate(input_shape, np.uint8, device)
        self._outputs = [allocate(output_shape, np.float32, device) for _ in OUTPUTS]
        self._binding = runtime.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._images)
        for name, value in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(GRAPH_ID, graph_id)

    def run(self, images_u8: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        count = len(images_u8)
        self._padded_u8[:count] = images_u8
        self._images.update_inplace(self._padded_u8)
        self._runtime.run_with_iobinding(self._binding, self._options)
        logits, probabilities = (value.numpy()[:count].copy() for value in self._outputs)
        return logits, probabilities
