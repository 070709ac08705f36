"""The way of every input to its row: one thread decodes the next batch while the network runs the one before."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from infer.images import decode
from infer.rows import Row
from infer.session import Session
from nets.card import ModelCard
from nets.errors import ImageError, ModelError

logger = logging.getLogger(__name__)

FAR = 0.25  # of full brightness: how far the images' mean may lie from the card's before a warning

Decoded = tuple[str, NDArray[np.uint8] | ImageError]


def infer(
    session: Session, paths: Iterable[str], *, batch_size: int, top_k: int = 1, invert: bool = False
) -> Iterator[Row]:
    """Exactly one row for each path, in their order: a prediction, or an error with its code."""
    remaining = iter(paths)

    def decode_batch() -> list[Decoded]:
        return [(path, _pixels(path, session.card, invert)) for path in islice(remaining, batch_size)]

    with ThreadPoolExecutor(1, "decode") as decoder:
        upcoming = decoder.submit(decode_batch)
        first = True
        while batch := upcoming.result():
            upcoming = decoder.submit(decode_batch)
            images = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
            if first and images:
                _warn_of_strange_brightness(np.stack(images), session.card, invert)
                first = False
            predictions = _predict(session, images, top_k)
            for path, pixels in batch:
                if isinstance(pixels, ImageError):
                    yield Row(path, status=pixels.code, message=str(pixels))
                else:
                    yield Row(path, ranked=next(predictions))


def _pixels(path: str, card: ModelCard, invert: bool) -> NDArray[np.uint8] | ImageError:
    try:
        return decode(path, card, invert=invert)
    except ImageError as fault:
        return fault


def _predict(session: Session, images: list[NDArray[np.uint8]], top_k: int) -> Iterator[tuple[tuple[str, float], ...]]:
    """For each image the `top_k` most probable labels with their probabilities, most probable first."""
    if not images:
        return
    logits, probabilities = session.run(np.stack(images))
    if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
        raise ModelError(f"{session.model.name}: gives answers that are no numbers")
    # by logit: where two probabilities round to the same number, the logits still tell them apart
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    for ranks, chances in zip(order, probabilities, strict=True):
        yield tuple((session.card.labels[rank], float(chances[rank])) for rank in ranks)


def _warn_of_strange_brightness(images_u8: NDArray[np.uint8], card: ModelCard, invert: bool) -> None:
    mean, trained_on = float(images_u8.mean()) / 255, sum(card.mean) / len(card.mean)
    if abs(mean - trained_on) > FAR:
        advice = "leave out --invert" if invert else "for dark ink on white use --invert"
        logger.warning(
            "warning: the images' mean brightness is %.2f, the model was trained on %.2f; %s", mean, trained_on, advice
        )
