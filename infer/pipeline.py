"""The way of every input to its row: each worker decodes a batch and runs the network over it, side by side.

That keeps all cores busy whichever of the two is the slower, and one thread for each run of the network is faster than
several that wait for each other at every operator.
"""

import logging
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from infer.images import Decoder
from infer.rows import Row
from infer.session import Session
from infer.team import Team
from nets.errors import ImageError, ModelError, OutOfMemoryError

logger = logging.getLogger(__name__)

FAR = 0.25  # of full brightness: how far the images' mean may lie from the card's before a warning
JUDGED = 1000  # images, of the first ones, by which that is judged

AHEAD = 2  # batches, that none of the workers waits for work
SMALL = 2048  # bytes of a file; of 2,782 bytes (64x64) side by side took 92 us each, in turns 106 us

Input = str | NDArray[np.uint8]
Decoded = NDArray[np.uint8] | ImageError


@dataclass(frozen=True)
class Batch:
    """What became of some inputs: a row for each, in their order, and how bright (0 to 1) their `images` images are."""

    rows: list[Row]
    images: int
    brightness: float


def infer(
    session: Session, inputs: Iterable[Input], *, decoder: Decoder, batch_size: int, workers: int, top_k: int = 1
) -> Generator[list[Row]]:
    """Exactly one row for each input, in their order: a prediction, or an error with its code; a batch at a time.

    Inputs are paths, or images as levels, whose rows have an empty path.
    """
    remaining = iter(inputs)
    judge = _Judge(decoder)
    work = _Work(session, decoder, batch_size, top_k)
    with Team[Batch](workers) as team:
        while True:
            while len(team) < workers + AHEAD and (batch := list(islice(remaining, batch_size))):
                team.give(work.on(batch))
            if not team:
                break
            done = team.take()
            judge.see(done)
            yield done.rows
    judge.end()


def shared_out(paths: Iterable[str], *, batch_size: int, workers: int) -> tuple[int, Iterator[str]]:
    """The size of batches that gives each worker one where paths are few, up to `batch_size`; and all the paths."""
    remaining = iter(paths)
    first = list(islice(remaining, batch_size * workers))
    return max(1, math.ceil(len(first) / workers)), chain(first, remaining)


@dataclass(frozen=True)
class _Work:
    """What is done to a batch of at most `batch_size` inputs: its files are decoded, then the network is run.

    Small files are decoded at once, in the thread that gives the work out: each takes so little that threads which
    decode side by side spend the time on handing Python's lock to and fro.
    """

    session: Session
    decoder: Decoder
    batch_size: int
    top_k: int

    def on(self, inputs: list[Input]) -> Callable[[], Batch]:
        """The work that is left to whoever is free."""
        if _is_small(inputs[0]):
            return partial(self._answered, inputs, self._decoded(inputs))
        return lambda: self._answered(inputs, self._decoded(inputs))

    def _decoded(self, inputs: list[Input]) -> list[Decoded]:
        return [self._pixels(each) for each in inputs]

    def _pixels(self, image: Input) -> Decoded:
        try:
            return self.decoder(image)
        except ImageError as fault:
            return fault

    def _answered(self, inputs: list[Input], decoded: list[Decoded]) -> Batch:
        paths = [each if isinstance(each, str) else "" for each in inputs]
        images = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
        stacked = np.stack(images) if images else None
        predictions = iter(()) if stacked is None else self._predictions(stacked)
        rows = [
            Row(path, status=pixels.code, message=str(pixels))
            if isinstance(pixels, ImageError)
            else Row(path, ranked=next(predictions))
            for path, pixels in zip(paths, decoded, strict=True)
        ]
        return Batch(rows, len(images), 0.0 if stacked is None else float(stacked.mean()) / 255)

    def _predictions(self, images_u8: NDArray[np.uint8]) -> Iterator[tuple[tuple[str, float], ...]]:
        """For each image the `top_k` most probable labels with their probabilities, most probable first."""
        logits, probabilities = self._answers(images_u8, self.batch_size)
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise ModelError(f"{self.session.model.name}: gives answers that are no numbers")
        # by logit: where two probabilities round to the same number, the logits still tell them apart
        order = np.argsort(-logits, axis=1, kind="stable")[:, : self.top_k]
        labels, chances = self.session.card.labels, np.take_along_axis(probabilities, order, axis=1)
        for ranked, shares in zip(order.tolist(), chances.tolist(), strict=True):
            yield tuple((labels[rank], share) for rank, share in zip(ranked, shares, strict=True))

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
    try:
        return (os.stat(image).st_size if isinstance(image, str) else image.nbytes) <= SMALL
    except (OSError, ValueError):
        return True


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
