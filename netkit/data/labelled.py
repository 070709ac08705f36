"""Labelled images for evaluating a model. Their classes are indices into the model's labels."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError, UsageError
from netkit.core.model_card import ModelCard
from netkit.core.remote import local_path
from netkit.data import image_files, registry
from netkit.data.dataset import ArrayDataSet, DataSet
from netkit.data.image_entry import TEST, VAL, ImageEntry, split_of
from netkit.data.options import AUTO, CLASSES, DEFAULT, READING, Options
from netkit.data.table import is_table
from netkit.images.files import Skipped

logger = logging.getLogger(__name__)

Purpose = Literal["evaluating", "calibrating"]
MAX_LABELS_LISTED = 5  # in an error message


@dataclass(frozen=True)
class LabelledImages:
    """`inputs` are paths or images uint8 (N, height, width, channels); `truth` are their classes (N,).

    `name` is the name of the data set.
    """

    name: str
    inputs: Sequence[str] | NDArray[np.uint8]
    truth: NDArray[np.int64]


def load(
    source: str | None,
    card: ModelCard,
    reading: Mapping[str, Any] | None = None,
    *,
    purpose: Purpose = "evaluating",
) -> LabelledImages:
    """Load the images to evaluate or calibrate on. The default is the model's own data set, if it is built in.

    `source` is a value of --data, and `reading` holds fields of Options that say how it is read; None means as in
    training if the names of the data sets are equal. Image files without a test split are represented by their
    validation split, or else by those that were kept for testing if the model was trained on these files, or else all.
    With the purpose "calibrating", the validation split is used instead of the test split, if there is one.
    Raises UsageError if there is no such data set, DataError if it has no images or a class that is not in the card.
    """
    source = None if source is None else local_path(source)
    reading = {name: value for name, value in (reading or {}).items() if value is not None}
    registry.require_fitting(card.origin.data if source is None else source, reading)
    if source is not None and registry.has_image_files(source):
        entries, note = _entries(Path(source), card, reading, purpose)
        if not entries:
            raise DataError(f"{source}: contains no images")
        truth = _label_indices(source, [entry.label for entry in entries], card)
        return LabelledImages(Path(source).resolve().name + note, [entry.path for entry in entries], truth)
    data = _own_data_set(card) if source is None else registry.load(source)
    assert isinstance(data, ArrayDataSet)
    truth = _label_indices(data.name, [data.labels[label] for label in data.test_labels.tolist()], card)
    if purpose == "calibrating":
        logger.info("%s: calibrating on the %s test images; evaluate on other images", data.name, f"{len(truth):,}")
    return LabelledImages(data.name, data.test_images.transpose(0, 2, 3, 1), truth)


def _own_data_set(card: ModelCard) -> DataSet:
    name = card.origin.data  # a folder may have the same name, so compare the hash
    data = registry.load(name) if name in registry.BUILT_IN else None
    if data is None or data.sha256 != card.origin.data_sha256:
        raise UsageError(f"--data is required: the model was trained on {name!r}; pass labelled images")
    return data


def _entries(
    path: Path, card: ModelCard, reading: Mapping[str, Any], purpose: Purpose
) -> tuple[Sequence[ImageEntry], str]:
    """Return the images of a data set that fit the purpose, and a note on them for the name of the data set."""
    options, skipped = _options(path, card, reading), Skipped()
    train, val, test, sources = image_files.list_images(path, options, skipped)
    if skipped:
        logger.info("%s: %s", path, skipped)
    if test and not (val and purpose == "calibrating"):
        logger.info("%s: %s on the %s test images (%s)", path, purpose, f"{len(test):,}", sources[TEST])
        return test, ""
    if val:
        logger.info("%s: %s on the %s validation images (%s)", path, purpose, f"{len(val):,}", sources[VAL])
        return (
            val,
            f" (validation images{', also used in training' if path.resolve().name == card.origin.data else ''})",
        )
    return _not_trained_on(path, train, card, options, purpose) or train, ""


def _options(path: Path, card: ModelCard, reading: Mapping[str, Any]) -> Options:
    """Return the options for loading `path`."""
    options = Options.from_card(card)
    if path.resolve().name != card.origin.data:
        defaults: dict[str, Any] = {name: getattr(DEFAULT, name) for name in READING}
        options = replace(options, **defaults)
    if options.layout == AUTO and any(map(split_of, card.labels)):
        options = replace(options, layout=CLASSES)  # the folders are named like labels of the model
    return replace(options, **reading)


def _not_trained_on(
    path: Path, entries: Sequence[ImageEntry], card: ModelCard, options: Options, purpose: Purpose
) -> Sequence[ImageEntry]:
    """Return the images that were kept for testing if the model was trained on these files, and otherwise none."""
    if card.origin.val_split is None or {entry.label for entry in entries} != set(card.labels):
        return ()
    try:
        test, sha256 = image_files.list_test_images(path, options)
    except DataError:  # training rejects these files, so the model was not trained on them
        return ()
    if sha256 == card.origin.data_sha256:
        message = "%s: the model was trained on this data set; %s on the %s held-out images"
        logger.info(message, path, purpose, f"{len(test):,}")
        return test
    if path.resolve().name == card.origin.data:
        logger.warning(
            "%s: differs from the data set that the model was trained on; %s on all images, which may include its "
            "training images",
            path,
            purpose,
        )
    return ()


def _label_indices(source: str, labels: Sequence[str], card: ModelCard) -> NDArray[np.int64]:
    index = {label: index for index, label in enumerate(card.labels)}
    if unknown := sorted(set(labels) - set(index)):
        renamed = "labels in the table" if is_table(source) else "subfolders"
        fix = f"rename the {renamed} to these labels, or " if registry.has_image_files(source) else ""
        raise DataError(
            f"{source}: the model does not know the class{'es' if unknown[1:] else ''} {_first(unknown)}; "
            f"its labels are {_first(card.labels)}; {fix}pass another data set with --data"
        )
    return np.array([index[label] for label in labels], np.int64)


def _first(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in total)" if len(names) > MAX_LABELS_LISTED else ""
    return ", ".join(map(repr, names[:MAX_LABELS_LISTED])) + more
