"""The way of every input to its row: files are decoded while the network runs over others, a batch at a time.

A team of processes, or of threads, keeps all cores busy, whichever of the two is the slower; and one thread for each
run of the network is faster than several that wait for each other at every operator.
"""

import logging
import math
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import ImageError, ModelError, OutOfMemoryError
from netkit.core.remote import is_remote
from netkit.images.decoder import Decoder
from netkit.infer.output.writers import Row
from netkit.infer.pipeline.brightness import Brightness
from netkit.infer.pipeline.threads import AHEAD, Team
from netkit.infer.runtime.session import Session

if TYPE_CHECKING:
    from netkit.infer.pipeline.processes import Processes

logger = logging.getLogger(__name__)

SMALL = 2048  # bytes of a file; of 1,819 (48x48) 52 us each, and side by side 49; of 3,144 (64x64) 72, and 53

Input = str | NDArray[np.uint8]


@dataclass(frozen=True)
class _Decoded:
    """What became of some inputs: `pixels` (N, channels, height, width) of those for which there is no fault."""

    paths: list[str]
    faults: list[Row | None]
    pixels: NDArray[np.uint8]


_Batch = list[Input] | _Decoded


@dataclass(frozen=True)
class _Answered:
    """What became of them in the end: logits and probabilities (N, classes), and the mean level of all pixels."""

    paths: list[str]
    faults: list[Row | None]
    level: float
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def infer(
    session: Session,
    inputs: Iterable[Input],
    *,
    decoder: Decoder,
    batch_size: int,
    workers: int,
    top_k: int = 1,
    forks: bool = False,
    light: Brightness | None = None,
) -> Generator[list[Row]]:
    """Exactly one row for each input, in their order: a prediction, or an error with its code; a batch at a time.

    Inputs are paths, or images as levels, whose rows have an empty path. Workers are threads; or with `forks`, for
    which the session `can_fork`, processes. `light` sees how bright the images are.
    """
    remaining = iter(inputs)
    work = _Work(session, decoder, batch_size, top_k)
    with _team(workers, work, forks) as team:
        while True:
            while len(team) < workers * AHEAD and (batch := list(islice(remaining, batch_size))):
                team.give(batch if forks else work.begun(batch))
            if not team:
                break
            done = team.take()
            if light:
                light.see(len(done.logits), done.level)
            yield work.rows(done)
    if light:
        light.end()


def _team(size: int, work: "_Work", forks: bool) -> "Team[_Batch, _Answered] | Processes[_Batch, _Answered]":
    if not forks:
        return Team(size, work)
    from netkit.infer.pipeline.processes import Processes  # 9 ms, and for Linux alone

    return Processes(size, work)


def shared_out(paths: Iterable[str], *, batch_size: int, workers: int) -> tuple[int, Iterator[str]]:
    """The size of batches that gives each worker one where paths are few, up to `batch_size`; and all the paths."""
    remaining = iter(paths)
    first = list(islice(remaining, batch_size * workers))
    return max(1, math.ceil(len(first) / workers)), chain(first, remaining)


@dataclass(frozen=True)
class _Work:
    """What is done to a batch of at most `batch_size` inputs: its files are decoded, then the network is run."""

    session: Session
    decoder: Decoder
    batch_size: int
    top_k: int

    def __call__(self, batch: _Batch) -> _Answered:
        decoded = batch if isinstance(batch, _Decoded) else self._decoded(batch)
        if not len(decoded.pixels):
            nothing = np.empty((0, len(self.session.card.labels)), np.float32)
            return _Answered(decoded.paths, decoded.faults, 0.0, nothing, nothing)
        answers = self._answers(decoded.pixels, self.batch_size)
        return _Answered(decoded.paths, decoded.faults, float(decoded.pixels.mean()), *answers)

    def begun(self, batch: list[Input]) -> _Batch:
        """Small files are decoded in the thread that gives the work out.

        Each takes so little that threads which decode side by side spend the time on handing Python's lock to and fro.
        """
        return self._decoded(batch) if _is_small(batch[0]) else batch

    def rows(self, answered: _Answered) -> list[Row]:
        """A row for each input. Raises ModelError where an answer is no number."""
        ranked = self._ranked(answered.logits, answered.probabilities)
        return [
            fault or Row(path, ranked=next(ranked)) for path, fault in zip(answered.paths, answered.faults, strict=True)
        ]

    def _decoded(self, inputs: list[Input]) -> _Decoded:
        card = self.session.card
        pixels: list[NDArray[np.uint8]] = []
        faults: list[Row | None] = []
        paths = [each if isinstance(each, str) else "" for each in inputs]
        for path, each in zip(paths, inputs, strict=True):
            try:
                pixels.append(self.decoder(each))
                faults.append(None)
            except ImageError as fault:
                faults.append(Row(path, status=fault.code, message=str(fault)))
        stacked = np.stack(pixels) if pixels else np.empty((0, card.channels, card.height, card.width), np.uint8)
        return _Decoded(paths, faults, stacked)

    def _ranked(
        self, logits: NDArray[np.float32], probabilities: NDArray[np.float32]
    ) -> Iterator[tuple[tuple[str, float], ...]]:
        """For each image the `top_k` most probable labels with their probabilities, most probable first."""
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise ModelError(f"{self.session.model.name}: gives answers that are no numbers")
        # by logit: where two probabilities round to the same number, the logits still tell them apart
        order = np.argsort(-logits, axis=1, kind="stable")[:, : self.top_k]
        chances = np.take_along_axis(probabilities, order, axis=1)
        label_at = self.session.card.labels.__getitem__
        ranks = zip(order.T.tolist(), chances.T.tolist(), strict=True)
        return zip(*(zip(map(label_at, places), shares, strict=True) for places, shares in ranks), strict=True)

    def _answers(self, images_u8: NDArray[np.uint8], size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits and probabilities; where the memory does not last for batches of that size, in two of half."""
        try:
            return self.session.run(images_u8, size=size)
        except OutOfMemoryError:
            if size == 1:
                raise
        half = math.ceil(size / 2)
        parts = (self._answers(images_u8[start : start + half], half) for start in range(0, len(images_u8), half))
        logits, probabilities = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)


def _is_small(image: Input) -> bool:
    if isinstance(image, str) and is_remote(image):
        return False
    try:
        return (os.stat(image).st_size if isinstance(image, str) else image.nbytes) <= SMALL
    except (OSError, ValueError):
        return True
