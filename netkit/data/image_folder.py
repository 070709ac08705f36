"""Data sets of image files: class folders, as torchvision's ImageFolder takes them, or a table of paths and labels."""

import csv
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import CardError, DataError, ImageError, UsageError
from netkit.core.model_card import Input
from netkit.core.system import free_memory, usable_cores
from netkit.data.dataset import DataSet
from netkit.data.lazy import Images, ImagesInFiles
from netkit.data.options import Options
from netkit.images.decoder import SUFFIXES, Decoder, pillow_silenced

logger = logging.getLogger(__name__)

TRAIN, TESTS = "train", ("test", "val")  # folders, and in a table the values of its column `split`
MOST_UNREADABLE = 0.01  # of all images; more stop the run
SHARE_OF_MEMORY = 0.25  # that images may take: training has a copy of them, and needs room itself
NAMED = 5  # sizes that a message lists
INSPECTOR = Decoder(Input(3, 1, 1))  # reads and looks alone: to what it would scale images does not matter


@dataclass(frozen=True)
class Entry:
    """One image: its `path`, what it is called in the data set, and its label.

    When it was looked at: the SHA-256 of its file, whether it has no colours, and its height and width in pixels.
    """

    path: str
    name: str
    label: str
    sha256: bytes = b""
    grey: bool = False
    size: tuple[int, int] = (0, 0)


Split = tuple[list[Entry], list[Entry]]  # for training, and for testing


def load(source: Path, options: Options, *, memory: int | None = None) -> DataSet:
    """The images under the folder `source`, or those that the .csv file `source` lists, with their labels.

    A folder holds a folder for each class, or `train` and `test` or `val` with these in them; a table the columns path
    (from its own folder on) and label, and maybe split. They are in memory as uint8 where they take at most `memory`
    bytes (None: a quarter of what is free), else decoded when they are needed. Unreadable images are named and left
    out. Raises DataError where there are none or too few, where more than 1 % cannot be read, or where sizes are mixed
    and `options` names none.
    """
    with pillow_silenced():
        train, test, labels, val_split = _looked_through(source, options)
        decoder = Decoder(_input(source, [*train, *test], options))
        room = free_memory() * SHARE_OF_MEMORY if memory is None else memory
        wanted = decoder.input
        resident = (len(train) + len(test)) * wanted.channels * wanted.height * wanted.width <= room
        images = [_images(part, decoder, resident=resident) for part in (train, test)]
    _tell(train, labels, resident=resident)
    return DataSet(
        source.resolve().name, str(source.resolve()), _sha256(train, test, wanted), labels,
        images[0], _numbers(train, labels), images[1], _numbers(test, labels), wanted.resize, options.given,
        val_split,
    )  # fmt: skip


def tests(source: Path, options: Options) -> tuple[list[Entry], str]:
    """The images of the data set that `load` would give to test on, and the data set's SHA-256. Errors as there."""
    with pillow_silenced():
        train, test, _, _ = _looked_through(source, options)
        return test, _sha256(train, test, _input(source, [*train, *test], options))


def _looked_through(source: Path, options: Options) -> tuple[list[Entry], list[Entry], tuple[str, ...], float | None]:
    """The readable images to train on and to test on, all labels, and the share that was kept for testing, if any."""
    train, test = entries(source)
    val_split = None if test else options.val_split
    if val_split:
        train, test = _split(source, train, options)
    labels = _labels(source, train, test)
    return *_readable(source, train, test), labels, val_split


def entries(source: Path) -> Split:
    """What there is to train on and to test on, as names alone: no file is opened. Errors as `load` has them."""
    return _from_table(source) if source.suffix.lower() == ".csv" else _from_folder(source)


def _from_folder(source: Path) -> Split:
    if not (source / TRAIN).is_dir():
        return list(_classes(source, source)), []
    tests = next((source / name for name in TESTS if (source / name).is_dir()), None)
    return list(_classes(source / TRAIN, source)), list(_classes(tests, source)) if tests else []


def _classes(folder: Path, root: Path) -> Iterator[Entry]:
    """What lies in the class folders in `folder`, in sorted order; what begins with a dot is passed over."""
    classes = sorted(each.name for each in os.scandir(folder) if each.is_dir() and not each.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: no class folders here, and no files in MNIST's format")
    for label in classes:
        paths = [path for path in _walk(folder / label) if path.lower().endswith(SUFFIXES)]
        if not paths:
            raise DataError(f"{folder / label}: no images in this class (looked for {', '.join(SUFFIXES)})")
        yield from (Entry(path, os.path.relpath(path, root).replace(os.sep, "/"), label) for path in paths)


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


def _from_table(source: Path) -> Split:
    try:
        with open(source, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as fault:
        raise DataError(f"{source}: cannot be read as a table: {fault}") from None
    for number, row in enumerate(rows, start=2):
        if not row.get("path") or not row.get("label"):
            raise DataError(f"{source}, line {number}: a row has a path and a label, in columns of these names")
        if (row.get("split") or TRAIN) not in (TRAIN, *TESTS):
            raise DataError(f"{source}, line {number}: split is {TRAIN}, {' or '.join(TESTS)}, not {row['split']!r}")
    parts: Split = [], []
    for row in rows:
        entry = Entry(str(source.parent / row["path"]), row["path"], row["label"])
        parts[(row.get("split") or TRAIN) in TESTS].append(entry)
    return parts


def _split(source: Path, entries: Sequence[Entry], options: Options) -> Split:
    """Of each class the share `val_split` for testing, drawn by the seed; at least one, and one that stays."""
    random = np.random.default_rng(options.seed)
    classes: dict[str, list[Entry]] = {}
    for entry in entries:
        classes.setdefault(entry.label, []).append(entry)
    train, test = [], []
    for label, of_class in sorted(classes.items()):
        if len(of_class) < 2:
            raise DataError(f"{source}: class {label!r} has one image: none is left to test on")
        order = random.permutation(len(of_class))
        tests = min(max(1, round(len(of_class) * options.val_split)), len(of_class) - 1)
        test += [of_class[index] for index in sorted(order[:tests])]
        train += [of_class[index] for index in sorted(order[tests:])]
    return train, test


def _labels(source: Path, train: Sequence[Entry], test: Sequence[Entry]) -> tuple[str, ...]:
    known, wanted = {entry.label for entry in train}, {entry.label for entry in test}
    if not train or not test:
        raise DataError(f"{source}: no images for {'testing' if train else 'training'}")
    if strangers := sorted(wanted - known):
        raise DataError(f"{source}: classes to test on that nothing is to be learnt of: {', '.join(strangers)}")
    if len(known) < 2:
        raise DataError(f"{source}: one class only, {next(iter(known))!r}: there is nothing to tell apart")
    return tuple(sorted(known))


def _readable(source: Path, train: Sequence[Entry], test: Sequence[Entry]) -> Split:
    """Those whose pixels can be had, looked at, in an order that mixes the classes."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = [list(pool.map(_looked_at, part)) for part in (train, test)]
    unreadable = [each for part in parts for each in part if isinstance(each, str)]
    for line in unreadable:
        logger.warning("skipped: %s", line)
    if len(unreadable) > MOST_UNREADABLE * (len(train) + len(test)):
        count = f"{len(unreadable):,} of {len(train) + len(test):,}"
        raise DataError(f"{source}: {count} images cannot be read, over 1 %, of which the first is {unreadable[0]}")
    readable = [[each for each in part if isinstance(each, Entry)] for part in parts]
    train, test = ([part[i] for i in np.random.default_rng(0).permutation(len(part))] for part in readable)
    return train, test


def _looked_at(entry: Entry) -> Entry | str:
    """The entry with what its file shows, or what ails it."""
    try:
        content = INSPECTOR.read(entry.path)
        grey, size = INSPECTOR.grey_and_size(content)
    except ImageError as fault:
        return f"{entry.path}: {fault}"
    return replace(entry, sha256=hashlib.sha256(content).digest(), grey=grey, size=size)


def _input(source: Path, entries: Sequence[Entry], options: Options) -> Input:
    """What the options ask for; where they leave it open, what all images have in common."""
    channels = options.channels or (1 if all(entry.grey for entry in entries) else 3)
    sizes = Counter(entry.size for entry in entries)
    if options.size is None and len(sizes) > 1:
        common = ", ".join(f"{height}x{width} ({n:,})" for (height, width), n in sizes.most_common(NAMED))
        raise DataError(f"{source}: images of {len(sizes):,} sizes, {common}; make them alike with --image-size")
    height, width = options.size or next(iter(sizes))
    try:
        return Input(channels, height, width, options.resize)
    except CardError as fault:
        raise UsageError(f"{source}: {fault}") from None


def _images(part: Sequence[Entry], decoder: Decoder, *, resident: bool) -> Images:
    in_files = ImagesInFiles([entry.path for entry in part], decoder)
    if not resident:
        return in_files
    wanted = decoder.input
    images = np.empty((len(part), wanted.channels, wanted.height, wanted.width), np.uint8)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for image, pixels in zip(images, pool.map(decoder, in_files.paths), strict=True):
            image[:] = pixels
    return images


def _tell(train: Sequence[Entry], labels: Sequence[str], *, resident: bool) -> None:
    counts = Counter(entry.label for entry in train)
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    logger.info(
        "%s classes, of %s (%s) to %s (%s) training images%s",
        len(labels), f"{smallest:,}", least, f"{largest:,}", most,
        "" if resident else "; too many for memory: decoded anew in each epoch",
    )  # fmt: skip


def _numbers(part: Sequence[Entry], labels: Sequence[str]) -> NDArray[np.int64]:
    number: Mapping[str, int] = {label: index for index, label in enumerate(labels)}
    return np.array([number[entry.label] for entry in part], np.int64)


def _sha256(train: Sequence[Entry], test: Sequence[Entry], wanted: Input) -> str:
    """Of the files' names, labels and contents, of which of them are for testing, and of what is made of them."""
    total = hashlib.sha256(repr(wanted).encode())
    for part in (train, test):
        for entry in part:
            total.update(f"{entry.name}\0{entry.label}\0".encode("utf-8", "surrogateescape") + entry.sha256)
        total.update(b"\0")
    return total.hexdigest()
