"""Data sets of image files: this module joins the parts that list, split, inspect and decode them.

1. List     image_folder.py reads class folders, table.py a .csv table. Both return ImageEntry objects (image_entry.py)
            and open no image.
2. Split    A data set without test images keeps a share of each class for testing (image_entry.py).
3. Inspect  Every file is decoded once. Unreadable ones are left out, the others yield their hash, size and colours.
4. Decode   Images go into one array or, if it does not fit in memory, are decoded on each use (lazy.py).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import CardError, DataError, ImageError, UsageError
from netkit.core.model_card import Input
from netkit.core.ordered_map import ordered_map
from netkit.core.system import free_memory, usable_cores
from netkit.data.dataset import DataSet
from netkit.data.image_entry import ImageEntry, Split, split_by_class
from netkit.data.image_folder import read_folder
from netkit.data.lazy import DECODED_AHEAD, Images, ImagesInFiles
from netkit.data.options import Options
from netkit.data.table import read_table
from netkit.images.decoder import Decoder, pillow_silenced

logger = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01  # share of the images
MAX_SHARE_OF_MEMORY = 0.25  # of what is free: training copies the images, and needs memory itself
SIZES_LISTED = 5  # in a message
INSPECTOR = Decoder(Input(3, 1, 1))  # only reads and inspects, so its output size does not matter


def load(source: Path, options: Options, *, memory: int | None = None) -> DataSet:
    """Load the images in the folder `source`, or those that the .csv file `source` lists, with their labels.

    Images are kept in memory as uint8 if they take at most `memory` bytes (default: a quarter of the free memory), and
    are otherwise decoded on each use. Unreadable images are logged and left out.
    Raises DataError if there are too few images, if more than 1 % cannot be read, or if sizes differ and `options` has
    none.
    """
    with pillow_silenced():
        train, test, labels, val_split = _collect(source, options)
        input_spec = _input_spec(source, [*train, *test], options)
        if memory is None:
            memory = int(free_memory() * MAX_SHARE_OF_MEMORY)
        image_bytes = input_spec.channels * input_spec.height * input_spec.width
        in_memory = (len(train) + len(test)) * image_bytes <= memory
        train_images, test_images = (_images(part, Decoder(input_spec), in_memory) for part in (train, test))
    _log_classes(train, len(labels), in_memory)
    return DataSet(
        name=source.resolve().name,
        source=str(source.resolve()),
        sha256=_sha256(train, test, input_spec),
        labels=labels,
        train_images=train_images,
        train_labels=_label_indices(train, labels),
        test_images=test_images,
        test_labels=_label_indices(test, labels),
        resize=input_spec.resize,
        fixed_mean_and_std=options.mean_and_std,
        val_split=val_split,
    )


def list_test_images(source: Path, options: Options) -> tuple[list[ImageEntry], str]:
    """Return the test images of the data set that `load` would give, and its SHA-256. Raises DataError as `load`."""
    with pillow_silenced():
        train, test, _, _ = _collect(source, options)
        return test, _sha256(train, test, _input_spec(source, [*train, *test], options))


def list_images(source: Path) -> Split:
    """List the training and test images, without opening any. Raises DataError as `load`."""
    return read_table(source) if source.suffix.lower() == ".csv" else read_folder(source)


def _collect(
    source: Path, options: Options
) -> tuple[list[ImageEntry], list[ImageEntry], tuple[str, ...], float | None]:
    """Return the readable training and test images, the labels, and the share kept for testing, if it was drawn."""
    train, test = list_images(source)
    val_split = None if test else options.val_split
    if val_split:
        train, test = split_by_class(source, train, options)
    labels = _labels(source, train, test)
    return *_readable(source, train, test), labels, val_split


def _labels(source: Path, train: Sequence[ImageEntry], test: Sequence[ImageEntry]) -> tuple[str, ...]:
    if not train or not test:
        raise DataError(f"{source}: no images for {'testing' if train else 'training'}")
    train_labels = {entry.label for entry in train}
    if untrained := sorted({entry.label for entry in test} - train_labels):
        raise DataError(f"{source}: classes with test images but no training images: {', '.join(untrained)}")
    if len(train_labels) < 2:
        raise DataError(f"{source}: one class only, {next(iter(train_labels))!r}: there is nothing to tell apart")
    return tuple(sorted(train_labels))


def _readable(source: Path, train: Sequence[ImageEntry], test: Sequence[ImageEntry]) -> Split:
    """Inspect all files, and return those that can be decoded, in an order that mixes the classes."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = [list(pool.map(_inspect, part)) for part in (train, test)]
    problems = [result for part in results for result in part if isinstance(result, str)]
    for problem in problems:
        logger.warning("skipped: %s", problem)
    total = len(train) + len(test)
    if len(problems) > MAX_UNREADABLE * total:
        raise DataError(
            f"{source}: {len(problems):,} of {total:,} images cannot be read, over {MAX_UNREADABLE:.0%}; "
            f"the first is {problems[0]}"
        )
    readable = ([result for result in part if isinstance(result, ImageEntry)] for part in results)
    train, test = ([part[i] for i in np.random.default_rng(0).permutation(len(part))] for part in readable)
    return train, test


def _inspect(entry: ImageEntry) -> ImageEntry | str:
    """Return the entry with what its file shows, or a message that says why it cannot be decoded."""
    try:
        content = INSPECTOR.read(entry.path)
        grey, size = INSPECTOR.grey_and_size(content)
    except ImageError as exc:
        return f"{entry.path}: {exc}"
    return replace(entry, sha256=hashlib.sha256(content).digest(), grey=grey, size=size)


def _input_spec(source: Path, entries: Sequence[ImageEntry], options: Options) -> Input:
    """Return what `options` asks for, and otherwise what all images have in common."""
    channels = options.channels or (1 if all(entry.grey for entry in entries) else 3)
    sizes = Counter(entry.size for entry in entries)
    if options.size is None and len(sizes) > 1:
        common = ", ".join(f"{height}x{width} ({n:,})" for (height, width), n in sizes.most_common(SIZES_LISTED))
        raise DataError(f"{source}: images of {len(sizes):,} sizes, {common}; make them alike with --image-size")
    height, width = options.size or next(iter(sizes))
    try:
        return Input(channels, height, width, options.resize)
    except CardError as exc:
        raise UsageError(f"{source}: {exc}") from None


def _images(entries: Sequence[ImageEntry], decoder: Decoder, in_memory: bool) -> Images:
    in_files = ImagesInFiles([entry.path for entry in entries], decoder)
    if not in_memory:
        return in_files
    images = np.empty(in_files.shape, np.uint8)
    workers = usable_cores()
    decoded = ordered_map(ThreadPoolExecutor(workers), in_files.decode, in_files.paths, window=DECODED_AHEAD * workers)
    for image, pixels in zip(images, decoded, strict=True):
        image[:] = pixels
    return images


def _log_classes(train: Sequence[ImageEntry], classes: int, in_memory: bool) -> None:
    counts = Counter(entry.label for entry in train).most_common()
    (largest, largest_count), (smallest, smallest_count) = counts[0], counts[-1]
    logger.info(
        "%s classes, of %s (%s) to %s (%s) training images%s",
        classes, f"{smallest_count:,}", smallest, f"{largest_count:,}", largest,
        "" if in_memory else "; they do not fit in memory: decoded again in each epoch",
    )  # fmt: skip


def _label_indices(entries: Sequence[ImageEntry], labels: Sequence[str]) -> NDArray[np.int64]:
    index = {label: index for index, label in enumerate(labels)}
    return np.array([index[entry.label] for entry in entries], np.int64)


def _sha256(train: Sequence[ImageEntry], test: Sequence[ImageEntry], input_spec: Input) -> str:
    """Hash the names, labels and contents of all files, the split, and how images are prepared."""
    total = hashlib.sha256(repr(input_spec).encode())
    for part in (train, test):
        for entry in part:
            total.update(f"{entry.name}\0{entry.label}\0".encode("utf-8", "surrogateescape") + entry.sha256)
        total.update(b"\0")
    return total.hexdigest()
