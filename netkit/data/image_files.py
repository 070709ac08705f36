"""Load data sets of image files, in four steps.

1. List     image_folder.py reads class folders, table.py a .csv table. Both return ImageEntry objects (image_entry.py)
            and open no image.
2. Split    If there are no test images, a share of each class is kept for testing (image_entry.py).
3. Inspect  Every file is decoded once, to get its hash, its size and whether it is grey. Unreadable files are skipped.
4. Decode   Images are decoded into one array or, if it does not fit in memory, on each use (lazy.py).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import CardError, DataError, ImageError, UsageError
from netkit.core.model_card import Input
from netkit.core.ordered_map import ordered_map
from netkit.core.system import free_memory_bytes, usable_cores
from netkit.data.dataset import DataSet
from netkit.data.image_entry import ImageEntry, Split, split_by_class
from netkit.data.image_folder import read_folder
from netkit.data.lazy import PREFETCH_PER_THREAD, Images, ImagesInFiles
from netkit.data.options import Options
from netkit.data.table import read_table
from netkit.images.decoder import Decoder, suppress_pillow_warnings

logger = logging.getLogger(__name__)

MAX_UNREADABLE_SHARE = 0.01  # of the images
MAX_MEMORY_SHARE = 0.25  # of the free memory: training copies the images and needs memory itself
MAX_SIZES_LISTED = 5  # in an error message


def load(source: Path, options: Options, *, max_memory_bytes: int | None = None) -> DataSet:
    """Load the images in the folder `source`, or those that the .csv file `source` lists, with their labels.

    Images are kept in memory as uint8 if they take at most `max_memory_bytes` (default: a quarter of the free memory),
    and are otherwise decoded on each use. Unreadable images are logged and skipped.
    Raises DataError if there are too few images, if more than 1 % cannot be read, or if the images have different sizes
    and `options` sets no size.
    """
    with suppress_pillow_warnings():
        train, test, labels, val_split = _collect(source, options)
        input_spec = _input_spec(source, [*train, *test], options)
        if max_memory_bytes is None:
            max_memory_bytes = int(free_memory_bytes() * MAX_MEMORY_SHARE)
        image_bytes = input_spec.channels * input_spec.height * input_spec.width
        in_memory = (len(train) + len(test)) * image_bytes <= max_memory_bytes
        decoder = _decoder(input_spec, options)
        train_images, test_images = (_images(part, decoder, in_memory) for part in (train, test))
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
        draft=options.draft,
        max_bytes=options.max_bytes,
        max_pixels=options.max_pixels,
    )


def list_test_images(source: Path, options: Options) -> tuple[list[ImageEntry], str]:
    """Return the test images and the SHA-256 of the data set that `load` loads. Raises DataError as `load` does."""
    with suppress_pillow_warnings():
        train, test, _, _ = _collect(source, options)
        return test, _sha256(train, test, _input_spec(source, [*train, *test], options))


def list_images(source: Path) -> Split:
    """List the training and test images without opening any. Raises DataError as `load` does."""
    return read_table(source) if source.suffix.lower() == ".csv" else read_folder(source)


def _collect(
    source: Path, options: Options
) -> tuple[list[ImageEntry], list[ImageEntry], tuple[str, ...], float | None]:
    """Return the readable training and test images, the labels, and the share kept for testing or None."""
    train, test = list_images(source)
    val_split = None if test else options.val_split
    if val_split:
        train, test = split_by_class(source, train, options)
    labels = _labels(source, train, test)
    return *_readable(source, train, test, options), labels, val_split


def _labels(source: Path, train: Sequence[ImageEntry], test: Sequence[ImageEntry]) -> tuple[str, ...]:
    if not train or not test:
        raise DataError(
            f"{source}: no images for {'testing' if train else 'training'}; check its rows and the column 'split'"
        )
    train_labels = {entry.label for entry in train}
    if untrained := sorted({entry.label for entry in test} - train_labels):
        raise DataError(f"{source}: classes with test images but no training images: {', '.join(untrained)}")
    if len(train_labels) < 2:
        raise DataError(f"{source}: only one class, {next(iter(train_labels))!r}; a classifier needs at least two")
    return tuple(sorted(train_labels))


def _readable(source: Path, train: Sequence[ImageEntry], test: Sequence[ImageEntry], options: Options) -> Split:
    """Inspect all files and return those that can be decoded, in an order that mixes the classes."""
    # without a size, all images have the size of the network's input, so that none is decoded at a reduced scale
    spec = _make_input(source, 3, options.size, options) if options.size else Input(3, 1, 1)
    inspect = partial(_inspect, decoder=_decoder(spec, options))
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = [list(pool.map(inspect, part)) for part in (train, test)]
    problems = [result for part in results for result in part if isinstance(result, str)]
    for problem in problems:
        logger.warning("skipped: %s", problem)
    total = len(train) + len(test)
    if len(problems) > MAX_UNREADABLE_SHARE * total:
        raise DataError(
            f"{source}: {len(problems):,} of {total:,} images cannot be read, over {MAX_UNREADABLE_SHARE:.0%}; "
            f"the first is {problems[0]}"
        )
    readable = ([result for result in part if isinstance(result, ImageEntry)] for part in results)
    train, test = ([part[i] for i in np.random.default_rng(0).permutation(len(part))] for part in readable)
    return train, test


def _decoder(input_spec: Input, options: Options) -> Decoder:
    return Decoder(input_spec, max_bytes=options.max_bytes, max_pixels=options.max_pixels)


def _inspect(entry: ImageEntry, *, decoder: Decoder) -> ImageEntry | str:
    """Return the entry with hash, size and color set, or a message that says why the file cannot be decoded."""
    try:
        content = decoder.read(entry.path)
        grey, size = decoder.grey_and_size(content)
    except ImageError as exc:
        return f"{entry.path}: {exc}"
    return replace(entry, sha256=hashlib.sha256(content).digest(), grey=grey, size=size)


def _input_spec(source: Path, entries: Sequence[ImageEntry], options: Options) -> Input:
    """Return the size and channels in `options`; values that are not set are those that all images have in common."""
    channels = options.channels or (1 if all(entry.grey for entry in entries) else 3)
    sizes = Counter(entry.size for entry in entries)
    if options.size is None and len(sizes) > 1:
        common = ", ".join(f"{height}x{width} ({n:,})" for (height, width), n in sizes.most_common(MAX_SIZES_LISTED))
        raise DataError(
            f"{source}: images have {len(sizes):,} different sizes, such as {common}; "
            "pass --image-size, e.g. --image-size 224"
        )
    return _make_input(source, channels, options.size or next(iter(sizes)), options)


def _make_input(source: Path, channels: int, size: tuple[int, int], options: Options) -> Input:
    try:
        return Input(channels, *size, options.resize, options.draft)
    except CardError as exc:
        raise UsageError(f"{source}: {exc}") from None


def _images(entries: Sequence[ImageEntry], decoder: Decoder, in_memory: bool) -> Images:
    in_files = ImagesInFiles([entry.path for entry in entries], decoder)
    if not in_memory:
        return in_files
    images = np.empty(in_files.shape, np.uint8)
    workers = usable_cores()
    decoded = ordered_map(
        ThreadPoolExecutor(workers), in_files.decode, in_files.paths, window=PREFETCH_PER_THREAD * workers
    )
    for image, pixels in zip(images, decoded, strict=True):
        image[:] = pixels
    return images


def _log_classes(train: Sequence[ImageEntry], classes: int, in_memory: bool) -> None:
    counts = Counter(entry.label for entry in train).most_common()
    (largest, largest_count), (smallest, smallest_count) = counts[0], counts[-1]
    logger.info(
        "%s classes; training images per class: %s (%s) to %s (%s)%s",
        classes, f"{smallest_count:,}", smallest, f"{largest_count:,}", largest,
        "" if in_memory else "; they do not fit in memory and are decoded again in each epoch",
    )  # fmt: skip


def _label_indices(entries: Sequence[ImageEntry], labels: Sequence[str]) -> NDArray[np.int64]:
    index = {label: index for index, label in enumerate(labels)}
    return np.array([index[entry.label] for entry in entries], np.int64)


def _sha256(train: Sequence[ImageEntry], test: Sequence[ImageEntry], input_spec: Input) -> str:
    """Hash the names, labels and contents of all files, the split, and the input spec."""
    total = hashlib.sha256(repr(input_spec).encode())
    for part in (train, test):
        for entry in part:
            total.update(f"{entry.name}\0{entry.label}\0".encode("utf-8", "surrogateescape") + entry.sha256)
        total.update(b"\0")
    return total.hexdigest()
