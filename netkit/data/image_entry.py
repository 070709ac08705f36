"""ImageEntry: one labelled image file of a data set; and the division of such files into training and test images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netkit.core.errors import DataError
from netkit.data.options import Options

TRAIN = "train"  # a folder's name, and a value of a table's column `split`
TEST_NAMES = ("test", "val")  # likewise; both mean test images


@dataclass(frozen=True)
class ImageEntry:
    """One image file: its `path`, its `name` within the data set, and its `label`.

    The fields below are known once the file was inspected: the SHA-256 of its content, whether it has no colours, and
    its height and width in pixels.
    """

    path: str
    name: str
    label: str
    sha256: bytes = b""
    grey: bool = False
    size: tuple[int, int] = (0, 0)


Split = tuple[list[ImageEntry], list[ImageEntry]]  # training images, test images


def split_by_class(source: object, entries: Sequence[ImageEntry], options: Options) -> Split:
    """Draw the share `options.val_split` of each class as test images: at least one, and never all.

    The draw depends on `options.seed` alone. Raises DataError, which names `source`, if a class has a single image.
    """
    random = np.random.default_rng(options.seed)
    classes: dict[str, list[ImageEntry]] = {}
    for entry in entries:
        classes.setdefault(entry.label, []).append(entry)
    train, test = [], []
    for label, of_class in sorted(classes.items()):
        if len(of_class) < 2:
            raise DataError(f"{source}: class {label!r} has one image: none is left to test on")
        order = random.permutation(len(of_class))
        test_count = min(max(1, round(len(of_class) * options.val_split)), len(of_class) - 1)
        test += [of_class[index] for index in sorted(order[:test_count])]
        train += [of_class[index] for index in sorted(order[test_count:])]
    return train, test
