"""Load data sets of image files, in four steps.

1. List     image_folder.py reads class folders, table.py a table. Both return ImageEntry objects (image_entry.py) and
            open no image.
2. Split    If there are only training images, a share of each class is kept for testing (image_entry.py).
3. Inspect  Every file is decoded once, to get its hash, its size and whether it is grey (inspection.py).
4. Decode   Images are decoded into one array or, if it does not fit in memory, on each use (lazy.py).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import CardError, DataError, UsageError, one_line
from netkit.core.model_card import Input
from netkit.core.ordered_map import ordered_map
from netkit.core.system import free_memory_bytes, usable_cores
from netkit.data.dataset import DataSet
from netkit.data.image_entry import TEST, TRAIN, VAL, ImageEntry, Splits, split_by_class
from netkit.data.image_folder import read_folder
from netkit.data.inspection import readable
from netkit.data.lazy import PREFETCH_PER_THREAD, Images, ImagesInFiles
from netkit.data.options import DEFAULT, Options
from netkit.data.table import is_table, read_table
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.images.files import Skipped

logger = logging.getLogger(__name__)

MAX_MEMORY_SHARE = 0.25  # of the free memory: training copies the images and needs memory itself
MAX_SIZES_LISTED, MAX_CLASSES_LISTED = 5, 10  # in a message


def load(source: Path, options: Options, *, max_memory_bytes: int | None = None) -> DataSet:
    """Load the images in the folder `source`, or those that the table `source` lists, with their labels.

    Images are kept in memory as uint8 if they take at most `max_memory_bytes` (default: a quarter of the free memory),
    and are otherwise decoded on each use. Unreadable images are logged and skipped.
    Raises DataError if there are too few images, if more than `options.max_unreadable` of them cannot be read, or if
    they have different sizes and `options` sets no size.
    """
    skipped = Skipped()
    with suppress_pillow_warnings():
        files = _collect(source, options, skipped)
        if skipped:
            logger.info("%s: %s", source, skipped)
        input_spec = _input_spec(source, files, options)
        if max_memory_bytes is None:
            max_memory_bytes = int(free_memory_bytes() * MAX_MEMORY_SHARE)
        image_bytes = input_spec.channels * input_spec.height * input_spec.width
        in_memory = sum(map(len, files.parts)) * image_bytes <= max_memory_bytes
        decoder = _decoder(input_spec, options)
        train, test, *val = (_images(part, decoder, in_memory) for part in files.parts)
    _log(source, files, in_memory)
    return DataSet(
        name=source.resolve().name,
        source=str(source.resolve()),
        sha256=_sha256(files, input_spec),
        labels=files.labels,
        train_images=train,
        train_labels=_label_indices(files.splits.train, files.labels),
        test_images=test,
        test_labels=_label_indices(files.splits.test, files.labels),
        resize=input_spec.resize,
        fixed_mean_and_std=options.mean_and_std,
        val_split=files.val_split,
        val_images=val[0] if val else test if files.splits.val else None,
        val_labels=_label_indices(files.splits.val, files.labels) if files.splits.val else None,
        reading=options.reading,
        draft=options.draft,
        max_bytes=options.max_bytes,
        max_pixels=options.max_pixels,
    )


def list_test_images(source: Path, options: Options) -> tuple[list[ImageEntry], str]:
    """Return the test images and the SHA-256 of the data set that `load` loads. Nothing is logged.

    Raises DataError as `load` does.
    """
    with suppress_pillow_warnings():
        files = _collect(source, options, Skipped(), quiet=True)
        return files.splits.test, _sha256(files, _input_spec(source, files, options))


def list_images(source: Path, options: Options = DEFAULT, skipped: Skipped | None = None) -> Splits:
    """List the images of each split without opening any, and count in `skipped` what is not read.

    Raises DataError as `load` does.
    """
    if is_table(str(source)):
        return read_table(source, options)
    return read_folder(source, options.layout, Skipped() if skipped is None else skipped)


class _Files(NamedTuple):
    """The readable files of a data set. `val_split` is the share that was selected for testing, or None.

    Validation images are also the test images if there are no others.
    """

    splits: Splits
    labels: tuple[str, ...]
    val_split: float | None

    @property
    def parts(self) -> list[list[ImageEntry]]:
        """The training and test images, and the validation images if they are not also the test images."""
        train, val, test, _ = self.splits
        return [train, test, val] if val and val is not test else [train, test]


def _collect(source: Path, options: Options, skipped: Skipped, *, quiet: bool = False) -> _Files:
    splits = list_images(source, options, skipped)
    if not any(splits[:3]):
        raise DataError(f"{source}: lists no images")
    has_tests = bool(splits.val or splits.test)
    if splits.train and not has_tests:
        held_out = split_by_class(source, splits.train, options)
        splits = held_out._replace(sources={**splits.sources, **held_out.sources})
    _require_classes(source, splits)
    # without a size, all images have the size of the network's input, so that none is decoded at a reduced scale
    spec = _make_input(source, 3, options.size, options) if options.size else Input(3, 1, 1)
    parts = splits.train, splits.val, splits.test
    train, val, test = readable(
        source, parts, _decoder(spec, options), max_unreadable=options.max_unreadable, quiet=quiet
    )
    labels = tuple(sorted({entry.label for entry in train}))
    if unread := sorted({entry.label for entry in splits.train} - set(labels)):
        raise DataError(f"{source}: no training image of {', '.join(map(repr, unread))} can be read")
    splits = splits._replace(train=train, val=val, test=test if splits.test else val)
    if not splits.test:
        raise DataError(f"{source}: no test image can be read")
    return _Files(splits, labels, None if has_tests else options.val_split)


def _require_classes(source: Path, splits: Splits) -> None:
    """Raise DataError if there are no images to train or test on, or classes that cannot be trained."""
    if not splits.train:
        raise DataError(
            f"{source}: no images for training: neither a folder train/ nor a row with the split train; "
            "if the folders are classes, pass --layout classes"
        )
    labels = {entry.label for entry in splits.train}
    if untrained := sorted({entry.label for entry in (*splits.val, *splits.test)} - labels):
        raise DataError(
            f"{source}: classes with test images but no training images: {', '.join(untrained)}; add training images, "
            "or remove the classes"
        )
    if len(labels) < 2:
        (label,) = labels
        inner = source / label
        hint = f"; if the classes are the folders in {inner}, pass --data {inner}" if inner.is_dir() else ""
        raise DataError(f"{source}: only one class, {label!r}; a classifier needs at least two{hint}")


def _decoder(input_spec: Input, options: Options) -> Decoder:
    return Decoder(input_spec, max_bytes=options.max_bytes, max_pixels=options.max_pixels)


def _input_spec(source: Path, files: _Files, options: Options) -> Input:
    """Return the size and channels in `options`; values that are not set are those that all images have in common."""
    entries = [entry for part in files.parts for entry in part]
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


def _log(source: Path, files: _Files, in_memory: bool) -> None:
    """Log the number of images in each split and where they come from, and the classes."""
    train, val, test, sources = files.splits
    names = {TRAIN: "training", VAL: "validation" if test is not val else "validation and test", TEST: "test"}
    parts = {TRAIN: train, VAL: val, TEST: test if test is not val else []}
    texts = (
        f"{len(part):,} {names[split]} images" + (f" ({sources[split]})" if split in sources else "")
        for split, part in parts.items()
        if part
    )
    logger.info("%s: %s", source, ", ".join(texts))
    counts = Counter(entry.label for entry in train).most_common()
    (largest, largest_count), (smallest, smallest_count) = counts[0], counts[-1]
    if smallest_count == largest_count:
        sizes = f"{largest_count:,} training images per class"
    else:
        sizes = f"{smallest_count:,} to {largest_count:,} training images per class"
        sizes += f" (fewest: {one_line(smallest)}, most: {one_line(largest)})"
    logger.info(
        "%s classes: %s%s; %s%s",
        len(files.labels), one_line(", ".join(files.labels[:MAX_CLASSES_LISTED])),
        ", ..." if len(files.labels) > MAX_CLASSES_LISTED else "", sizes,
        "" if in_memory else "; they do not fit in memory and are decoded again in each epoch",
    )  # fmt: skip


def _label_indices(entries: Sequence[ImageEntry], labels: Sequence[str]) -> NDArray[np.int64]:
    index = {label: index for index, label in enumerate(labels)}
    return np.array([index[entry.label] for entry in entries], np.int64)


def _sha256(files: _Files, input_spec: Input) -> str:
    """Hash the names, labels and contents of all files, the split, and the input spec."""
    total = hashlib.sha256(repr(input_spec).encode())
    for part in files.parts:
        for entry in part:
            total.update(f"{entry.name}\0{entry.label}\0".encode("utf-8", "surrogateescape") + entry.sha256)
        total.update(b"\0")
    return total.hexdigest()
