"""The way of every input to its row: each worker decodes a batch and runs the network over it, side by side.

That keeps all cores busy whichever of the two is the slower, and one thread for each run of the network is faster than
several that wait for each other at every operator.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infer.images import Decoder, pillow_silenced
from infer.rows import Row
from infer.session import CPU, Session
from nets.errors import ImageError, ModelError, OutOfMemoryError

logger = logging.getLogger(__name__)

FAR = 0.25  # of full brightness: how far the images' mean may lie from the card's before a warning
JUDGED = 1000  # images, of the first ones, by which that is judged

SMALL = 2048  # bytes of a file; of 2,782 bytes (64x64) side by side took 92 us each, in turns 106 us

Input = str | NDArray[np.uint8]
Decoded = NDArray[np.uint8] | ImageError


@dataclass(frozen=True)
class Batch:
    """What became of some inputs: a row for each, in their order, and how bright (0 to 1) their `images` images are."""

    rows: list[Row]
    images: int
    brightness: float


@dataclass(frozen=True)
class _Turns:
    """Who must wait for whom. One GPU computes one batch at a time.

    Small files are decoded one batch at a time: each takes so little that threads which decode side by side spend the
    time on handing Python's lock to and fro. On 2 cores digits took 82 us each without turns, 47 us with them.
    """

    decode: Lock
    compute: AbstractContextManager[Any]


def infer(
    session: Session, inputs: Iterable[Input], *, decoder: Decoder, batch_size: int, workers: int, top_k: int = 1
) -> Iterator[list[Row]]:
    """Exactly one row for each input, in their order: a prediction, or an error with its code; a batch at a time.

    Inputs are paths, or images as levels, whose rows have an empty path.
    """
    remaining = iter(inputs)
    judge = _Judge(decoder)
    turns = _Turns(Lock(), nullcontext() if session.provider == CPU else Lock())

    def run(batch: list[Input]) -> Batch:
        return _run(session, batch, decoder, top_k, turns)

    with pillow_silenced(), ThreadPoolExecutor(workers, "infer") as pool:
        upcoming: deque[Future[Batch]] = deque()
        try:
            while True:
                while len(upcoming) <= workers and (batch := list(islice(remaining, batch_size))):
                    upcoming.append(pool.submit(run, batch))
                if not upcoming:
                    break
                done = upcoming.popleft().result()
                judge.see(done)
                yield done.rows
        finally:
            for future in upcoming:
                future.cancel()
    judge.end()


def shared_out(paths: Iterable[str], *, batch_size: int, workers: int) -> tuple[int, Iterator[str]]:
    """The size of batches that gives each worker one where paths are few, up to `batch_size`; and all the paths."""
    remaining = iter(paths)
    first = list(islice(remaining, batch_size * workers))
    return max(1, math.ceil(len(first) / workers)), chain(first, remaining)


def _run(session: Session, inputs: list[Input], decoder: Decoder, top_k: int, turns: _Turns) -> Batch:
    with turns.decode if _is_small(inputs[0]) else nullcontext():
        decoded = [_decoded(each, decoder) for each in inputs]
    paths = [each if isinstance(each, str) else "" for each in inputs]
    images = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
    stacked = np.stack(images) if images else None
    predictions = iter(()) if stacked is None else _predict(session, stacked, top_k, turns)
    rows = [
        Row(path, status=pixels.code, message=str(pixels))
        if isinstance(pixels, ImageError)
        else Row(path, ranked=next(predictions))
        for path, pixels in zip(paths, decoded, strict=True)
    ]
    return Batch(rows, len(images), 0.0 if stacked is None else float(stacked.mean()) / 255)


def _is_small(image: Input) -> bool:
    try:
        return (os.stat(image).st_size if isinstance(image, str) else image.nbytes) <= SMALL
    except (OSError, ValueError):
        return True


def _decoded(image: Input, decoder: Decoder) -> Decoded:
    try:
        return decoder(image)
    except ImageError as fault:
        return fault


def _predict(
    session: Session, images_u8: NDArray[np.uint8], top_k: int, turns: _Turns
) -> Iterator[tuple[tuple[str, float], ...]]:
    """For each image the `top_k` most probable labels with their probabilities, most probable first."""
    with turns.compute:
        logits, probabilities = _answers(session, images_u8)
    if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
        raise ModelError(f"{session.model.name}: gives answers that are no numbers")
    # by logit: where two probabilities round to the same number, the logits still tell them apart
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    labels = session.card.labels
    for ranks, chances in zip(order.tolist(), np.take_along_axis(probabilities, order, axis=1).tolist(), strict=True):
        yield tuple((labels[rank], chance) for rank, chance in zip(ranks, chances, strict=True))


def _answers(session: Session, images_u8: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and probabilities; where the memory does not last for all at once, of the two halves."""
    try:
        return session.run(images_u8)
    except OutOfMemoryError:
        if len(images_u8) == 1:
            raise
    halves = (_answers(session, half) for half in np.array_split(images_u8, 2))
    logits, probabilities = zip(*halves, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


class _Judge:
    """Warns, once, where the first images are far brighter or darker than those that the model was trained on."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._images, self._sum = 0, 0.0

    def see(self, batch: Batch) -> None:
        if self._images < JUDGED:
            self._images += batch.images
            self._sum += batch.images * batch.brightness
            if self._images >= JUDGED:
                self._decide()

    def end(self) -> None:
        """No more images come."""
        if 0 < self._images < JUDGED:
            self._decide()

    def _decide(self) -> None:
        card = self._decoder.card
        mean, trained_on = self._sum / self._images, sum(card.mean) / len(card.mean)
        if abs(mean - trained_on) > FAR:
            advice = "leave out --invert" if self._decoder.invert else "for dark ink on white use --invert"
            logger.warning(
                "warning: the images' mean brightness is %.2f, the model was trained on %.2f; %s",
                mean, trained_on, advice,
            )  # fmt: skip
