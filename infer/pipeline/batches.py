"""From inputs to predictions: workers decode images and run the network on them, a batch at a time.

Each worker decodes a batch and then runs the network on it in the same thread. All cores stay busy, whether decoding or
the network is slower, and one thread per run is faster than several that synchronize at each operator.
"""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import ImageError, ModelError, OutOfMemoryError
from netkit.core.remote import is_remote
from netkit.images.decoder import Decoder
from netkit.infer.pipeline.brightness import MeanBrightness
from netkit.infer.pipeline.threads import map_in_threads
from netkit.infer.runtime.session import Session

# Threads that decode small files in parallel wait for Python's global lock: a file of 1,819 bytes (48x48) took 52 us in
# sequence and 49 us in parallel, one of 3,144 bytes (64x64) 72 us and 53 us.
SMALL_FILE_BYTES = 2048
BATCHES_PER_TASK = 8  # of small files, for processes: sending tasks takes 1 % of the cores' time, with 1 batch 11 %

Input = str | bytes | Image.Image | NDArray[np.uint8]
Floats = NDArray[np.float32]
T = TypeVar("T")
Transform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


class InputError(NamedTuple):
    """Why an input has no prediction: an error code, which becomes the row's status, and a message."""

    status: str
    message: str


@dataclass(frozen=True)
class Predictions:
    """The network's outputs for a batch of N inputs, of which K could be decoded.

    `paths` (N,) holds "" for inputs that are not paths; `errors` (N,) holds None for each input that could be decoded.
    `logits` and `probabilities` (K, classes) are float32. `mean_level`, from 0 to 255, is the mean of all pixels.
    `transformed` (T, K) holds the predicted class indices after each of T transforms.
    """

    paths: list[str]
    errors: list[InputError | None]
    logits: Floats
    probabilities: Floats
    mean_level: float
    transformed: NDArray[np.int64]

    @property
    def decoded(self) -> NDArray[np.bool_]:
        """The mask (N,) of the inputs that could be decoded."""
        return np.array([error is None for error in self.errors], bool)


def predict(
    session: Session,
    inputs: Iterable[Input],
    *,
    decoder: Decoder,
    batch_size: int,
    workers: int,
    processes: bool = False,
    brightness: MeanBrightness | None = None,
    transforms: Sequence[Transform] = (),
) -> Generator[Predictions]:
    """Yield the predictions of all inputs in order, a batch at a time.

    Inputs are paths, the content of image files, Pillow's images, or arrays uint8 (height, width) or (height, width,
    channels). Workers are threads, or with
    `processes` forks of this process, which requires `session.can_fork`. `brightness` is updated with each batch.

    Raises ModelError if the network fails or its outputs are NaN or infinite.
    """
    first, inputs = _peek(inputs)
    small = first is not None and _is_small(first)
    worker = _Worker(session, decoder, batch_size, tuple(transforms))
    tasks = _chunks(inputs, batch_size * (BATCHES_PER_TASK if processes and small else 1))
    if processes:
        from netkit.infer.pipeline.processes import map_in_processes  # multiprocessing takes 10 ms to import

        results = map_in_processes(worker, tasks, workers=workers)
    elif small:  # the calling thread decodes them while it submits tasks
        results = map_in_threads(worker.run, map(worker.decode, tasks), workers=workers)
    else:
        results = map_in_threads(worker, tasks, workers=workers)
    for batches in results:
        for predictions in batches:
            if brightness:
                brightness.update(len(predictions.logits), predictions.mean_level)
            yield predictions
    if brightness:
        brightness.finish()


def split_evenly(inputs: Iterable[T], *, batch_size: int, workers: int) -> tuple[int, Iterator[T]]:
    """Return a batch size of at most `batch_size` that gives each worker a batch if inputs are few; and all inputs."""
    remaining = iter(inputs)
    first = list(islice(remaining, batch_size * workers))
    return max(1, math.ceil(len(first) / workers)), chain(first, remaining)


@dataclass(frozen=True)
class _Decoded:
    """A batch of N inputs after decoding: `pixels` (K, channels, height, width) uint8."""

    paths: list[str]
    errors: list[InputError | None]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Worker:
    """Decodes tasks and runs the network on them, in batches of at most `batch_size`."""

    session: Session
    decoder: Decoder
    batch_size: int
    transforms: tuple[Transform, ...]

    def __call__(self, inputs: list[Input]) -> list[Predictions]:
        return [self._predict(self.decode(batch)) for batch in _chunks(inputs, self.batch_size)]

    def run(self, decoded: _Decoded) -> list[Predictions]:
        return [self._predict(decoded)]

    def decode(self, inputs: list[Input]) -> _Decoded:
        card = self.session.card
        pixels: list[NDArray[np.uint8]] = []
        errors: list[InputError | None] = []
        for image in inputs:
            try:
                pixels.append(self.decoder(image))
                errors.append(None)
            except ImageError as exc:
                errors.append(InputError(exc.code, f"{exc}; {exc.fix}" if exc.fix else str(exc)))
        stacked = np.stack(pixels) if pixels else np.empty((0, card.channels, card.height, card.width), np.uint8)
        return _Decoded([image if isinstance(image, str) else "" for image in inputs], errors, stacked)

    def _predict(self, decoded: _Decoded) -> Predictions:
        pixels = decoded.pixels
        logits, probabilities = self._outputs(pixels, self.batch_size)
        transformed = np.empty((len(self.transforms), len(pixels)), np.int64)
        for index, transform in enumerate(self.transforms if len(pixels) else ()):
            images = np.stack([transform(image) for image in pixels])
            transformed[index] = self._outputs(images, self.batch_size)[0].argmax(axis=1)
        level = float(pixels.mean()) if len(pixels) else 0.0
        return Predictions(decoded.paths, decoded.errors, logits, probabilities, level, transformed)

    def _outputs(self, pixels: NDArray[np.uint8], size: int) -> tuple[Floats, Floats]:
        """Return logits and probabilities. If memory does not suffice for batches of `size`, retry with half of it."""
        if not len(pixels):
            empty = np.empty((0, len(self.session.card.labels)), np.float32)
            return empty, empty
        try:
            logits, probabilities = self.session.run(pixels, size=size)
        except OutOfMemoryError:
            if size == 1:
                raise
            half = math.ceil(size / 2)
            parts = [self._outputs(pixels[start : start + half], half) for start in range(0, len(pixels), half)]
            logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise ModelError(f"{self.session.model.name}: an output of the network is NaN or infinite")
        return logits, probabilities


def _peek(inputs: Iterable[Input]) -> tuple[Input | None, Iterator[Input]]:
    remaining = iter(inputs)
    first = next(remaining, None)
    return first, remaining if first is None else chain([first], remaining)


def _chunks(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    remaining = iter(inputs)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _is_small(image: Input) -> bool:
    """Whether decoding takes so little time that threads would not make it faster."""
    if isinstance(image, Image.Image):
        return False
    if not isinstance(image, str):
        return (len(image) if isinstance(image, bytes) else image.nbytes) <= SMALL_FILE_BYTES
    if is_remote(image):
        return False
    try:
        return os.stat(image).st_size <= SMALL_FILE_BYTES
    except (OSError, ValueError):
        return True
