"""Labelled images for evaluating a model. Their classes are indices into the model's labels."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data import image_files, registry
from netkit.data.dataset import ArrayDataSet, DataSet
from netkit.data.image_entry import TEST_NAMES, TRAIN, ImageEntry
from netkit.data.options import Options

logger = logging.getLogger(__name__)

MAX_LABELS_LISTED = 5  # in an error message


@dataclass(frozen=True)
class LabelledImages:
    """`inputs` are paths or images uint8 (N, height, width, channels); `truth` are their classes (N,).

    `name` is the name of the data set.
    """

    name: str
    inputs: Sequence[str] | NDArray[np.uint8]
    truth: NDArray[np.int64]


def load(source: str | None, card: ModelCard) -> LabelledImages:
    """Load the test images of a data set. The default is the model's own data set, if it is built in.

    `source` is a value of --data. If image files have no separate test images, all of them are used; if the model was
    trained on the same files, only those that were kept for testing.
    Raises UsageError if there is no such data set, DataError if it has no images or a class that is not in the card.
    """
    if source is not None and registry.has_image_files(source):
        entries = _test_entries(Path(source), card)
        if not entries:
            raise DataError(f"{source}: contains no images")
        truth = _label_indices(source, [entry.label for entry in entries], card)
        return LabelledImages(Path(source).resolve().name, [entry.path for entry in entries], truth)
    data = _own_data_set(card) if source is None else registry.load(source)
    assert isinstance(data, ArrayDataSet)
    truth = _label_indices(data.name, [data.labels[label] for label in data.test_labels.tolist()], card)
    return LabelledImages(data.name, data.test_images.transpose(0, 2, 3, 1), truth)


def _own_data_set(card: ModelCard) -> DataSet:
    name = card.origin.data  # a folder may have the same name, so compare the hash
    data = registry.load(name) if name in registry.BUILT_IN else None
    if data is None or data.sha256 != card.origin.data_sha256:
        raise UsageError(f"--data is required: the model was trained on {name!r}; pass labelled images to test it on")
    return data


def _test_entries(path: Path, card: ModelCard) -> Sequence[ImageEntry]:
    if not (path / TRAIN).is_dir():  # there may be only test images
        path = next((path / name for name in TEST_NAMES if name not in card.labels and (path / name).is_dir()), path)
    train, test = image_files.list_images(path)
    return test or _not_trained_on(path, train, card) or train


def _not_trained_on(path: Path, entries: Sequence[ImageEntry], card: ModelCard) -> Sequence[ImageEntry]:
    """Return the images that were kept for testing if the model was trained on these files, and otherwise none."""
    if card.origin.val_split is None or {entry.label for entry in entries} != set(card.labels):
        return ()
    try:
        test, sha256 = image_files.list_test_images(path, Options.from_card(card))
    except DataError:  # training rejects these files, so the model was not trained on them
        return ()
    if sha256 == card.origin.data_sha256:
        count = f"{len(test):,}"
        logger.info("%s: the model was trained on this data set; evaluating on the %s held-out images", path, count)
        return test
    if path.resolve().name == card.origin.data:
        logger.warning(
            "%s: differs from the data set that the model was trained on; evaluating on all images, which may include "
            "its training images",
            path,
        )
    return ()


def _label_indices(source: str, labels: Sequence[str], card: ModelCard) -> NDArray[np.int64]:
    index = {label: index for index, label in enumerate(card.labels)}
    if unknown := sorted(set(labels) - set(index)):
        raise DataError(
            f"{source}: the classes {_first(unknown)} are not among the model's labels {_first(card.labels)}; "
            "rename them like the labels"
        )
    return np.array([index[label] for label in labels], np.int64)


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:MAX_LABELS_LISTED])) + (", ..." if len(names) > MAX_LABELS_LISTED else "")
