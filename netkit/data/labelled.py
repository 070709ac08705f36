"""Labelled: images to judge a model by, each with its class as the model numbers them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data import image_folder, registry
from netkit.data.dataset import DataSet, HeldDataSet
from netkit.data.options import Options

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


def load(source: str | None, card: ModelCard) -> Labelled:
    """The tests of the data set that --data names, for a model with that card; by default of its own, if built in.

    Of images in files without tests of their own, as class folders, these are all of them; but where the model was
    trained on the very same ones, those that were kept for testing then. Raises UsageError where there is no such data
    set, DataError where it has no images or a class that is none of the card's labels.
    """
    if source is not None and registry.lie_in_files(source):
        entries = _tests(Path(source), card)
        inputs: Sequence[str] = [each.path for each in entries]
        name, labels = Path(source).resolve().name, [each.label for each in entries]
        if not inputs:
            raise DataError(f"{source}: no images there")
        return Labelled(name, inputs, _numbered(source, labels, card))
    data = _own(card) if source is None else registry.load(source)
    assert isinstance(data, HeldDataSet)
    labels = [data.labels[label] for label in data.test_labels.tolist()]
    return Labelled(data.name, data.test_images.transpose(0, 2, 3, 1), _numbered(data.name, labels, card))


def _own(card: ModelCard) -> DataSet:
    name = card.origin.data  # a folder may be called so, too
    data = registry.load(name) if name in registry.BUILT_IN else None
    if data is None or data.sha256 != card.origin.data_sha256:
        raise UsageError(f"this model was trained on images in {name!r}; say where they lie with --data")
    return data


def _tests(path: Path, card: ModelCard) -> Sequence[image_folder.Entry]:
    if not (path / image_folder.TRAIN).is_dir():  # tests alone, as on a machine that trains nothing
        path = next(
            (path / name for name in image_folder.TESTS if name not in card.labels and (path / name).is_dir()), path
        )
    train, test = image_folder.entries(path)
    return test or _kept(path, train, card) or train


def _kept(path: Path, entries: Sequence[image_folder.Entry], card: ModelCard) -> Sequence[image_folder.Entry]:
    """Those that training kept for testing; none where it was on other images."""
    if card.origin.val_split is None or {each.label for each in entries} != set(card.labels):
        return ()
    try:
        tests, sha256 = image_folder.tests(path, Options.of(card))
    except DataError:  # which training would not have taken
        return ()
    if sha256 == card.origin.data_sha256:
        logger.info("%s: the model was trained on it; its tests are the %s kept then", path, f"{len(tests):,}")
        return tests
    if path.resolve().name == card.origin.data:
        logger.warning("%s: not quite what the model was trained on: all is taken, what it learnt from, too", path)
    return ()


def _numbered(source: str, labels: Sequence[str], card: ModelCard) -> NDArray[np.int64]:
    number = {label: index for index, label in enumerate(card.labels)}
    if strangers := sorted(set(labels) - set(number)):
        told = f"classes that the model has no label for: {_some(strangers)}; its labels: {_some(card.labels)}"
        raise DataError(f"{source}: {told}")
    return np.array([number[label] for label in labels], np.int64)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (", ..." if names[NAMED:] else "")
