"""Labelled: images to judge a model by, each with its class as the model numbers them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nets.card import ModelCard
from nets.data import folder, sources
from nets.data.dataset import HeldDataSet
from nets.data.lazy import ImagesInFiles
from nets.data.options import Options
from nets.errors import DataError

logger = logging.getLogger(__name__)

NAMED = 5  # classes that a message lists


@dataclass(frozen=True)
class Labelled:
    """Paths of images, or images as levels uint8 (N, height, width, channels), and indices (N,) into a card's labels.

    `name` is that of the data set.
    """

    name: str
    inputs: Sequence[str] | NDArray[np.uint8]
    truth: NDArray[np.int64]


def load(source: str, card: ModelCard) -> Labelled:
    """The tests of the data set that --data names, for a model with that card.

    Of images in files without tests of their own, as class folders, these are all of them; but where the model was
    trained on the very same ones, those that were kept for testing then. Raises DataError where a class is none of the
    card's labels; else errors as nets.data.sources has them.
    """
    path = Path(source)
    if sources.lie_in_files(source):
        train, test = folder.entries(path)
        kept = _kept(path, card) if not test and card.origin.val_split is not None else None
        entries = test or train
        inputs, labels = kept or ([each.path for each in entries], [each.label for each in entries])
        return Labelled(path.resolve().name, inputs, _numbered(source, labels, card))
    data = sources.load(source)
    assert isinstance(data, HeldDataSet)
    labels = [data.labels[label] for label in data.test_labels.tolist()]
    return Labelled(data.name, data.test_images.transpose(0, 2, 3, 1), _numbered(source, labels, card))


def _kept(path: Path, card: ModelCard) -> tuple[Sequence[str], list[str]] | None:
    """The files that training kept for testing, and their labels; None where it was trained on others."""
    try:
        data = folder.load(path, Options.of(card), memory=0)
    except DataError:  # which training would not have taken
        return None
    if data.sha256 != card.origin.data_sha256:
        return None
    assert isinstance(data.test_images, ImagesInFiles)
    logger.info("%s: what the model was trained on; its tests are the %s kept then", path, f"{len(data.test_labels):,}")
    return data.test_images.paths, [data.labels[label] for label in data.test_labels.tolist()]


def _numbered(source: str, labels: Sequence[str], card: ModelCard) -> NDArray[np.int64]:
    number = {label: index for index, label in enumerate(card.labels)}
    if strangers := sorted(set(labels) - set(number)):
        names = ", ".join(map(repr, strangers[:NAMED])) + (", ..." if strangers[NAMED:] else "")
        raise DataError(f"{source}: classes that the model has no label for: {names}; its labels: {card.labels}")
    return np.array([number[label] for label in labels], np.int64)
