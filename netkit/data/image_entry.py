"""ImageEntry: one labelled image file of a data set. Splits: the files for training, validation and testing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from netkit.core.errors import DataError
from netkit.data.options import Options

TRAIN, VAL, TEST = "train", "val", "test"
# words in names of folders and in the split column of a table, as in Hugging Face's datasets -> split
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), TEST),
}
GENERIC_WORDS = r"(?:data|set|split|images?|imgs?|[\W_])*"
SPLIT_NAME = re.compile(f"{GENERIC_WORDS}({'|'.join(SPLIT_WORDS)}){GENERIC_WORDS}")


@dataclass(frozen=True)
class ImageEntry:
    """One image file: its `path`, its `name` within the data set, and its `label`.

    The other fields are set when the file is inspected: the SHA-256 of its content, whether it is grey, and its height
    and width in pixels.
    """

    path: str
    name: str
    label: str
    sha256: bytes = b""
    grey: bool = False
    size: tuple[int, int] = (0, 0)


class Splits(NamedTuple):
    """The files of each split. `sources` says where a split comes from, such as the folder "valid/"."""

    train: list[ImageEntry]
    val: list[ImageEntry]
    test: list[ImageEntry]
    sources: Mapping[str, str]


def split_of(name: str) -> str | None:
    """Return the split that a folder or a cell of a table names, such as "Training", "test-set" or "train_images"."""
    match = SPLIT_NAME.fullmatch(name.lower())
    return SPLIT_WORDS[match[1]] if match else None


def split_by_class(source: object, entries: Sequence[ImageEntry], options: Options) -> Splits:
    """Select the share `options.val_split` of each class as test images: at least one image, and never all.

    The selection is random and depends only on `options.seed`. Raises DataError, which names `source`, if a class has
    only one image.
    """
    random = np.random.default_rng(options.seed)
    classes: dict[str, list[ImageEntry]] = {}
    for entry in entries:
        classes.setdefault(entry.label, []).append(entry)
    train, test = [], []
    for label, members in sorted(classes.items()):
        if len(members) < 2:
            raise DataError(f"{source}: class {label!r} has only one image; add another, or remove the class")
        order = random.permutation(len(members))
        test_count = min(max(1, round(len(members) * options.val_split)), len(members) - 1)
        test += [members[index] for index in sorted(order[:test_count])]
        train += [members[index] for index in sorted(order[test_count:])]
    return Splits(
        train, [], test, {TEST: f"{100 * options.val_split:g}% of each class, selected with seed {options.seed}"}
    )
