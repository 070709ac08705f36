"""Class folders, as in torchvision's ImageFolder: the name of a folder is the label of the images in it."""

import os
from collections.abc import Iterator
from pathlib import Path

from netkit.core.errors import DataError
from netkit.data.image_entry import TEST_NAMES, TRAIN, ImageEntry, Split
from netkit.images.files import SUFFIXES, find_images, is_image_name


def read_folder(folder: Path) -> Split:
    """List the images in `folder`, which contains class folders, or `train` and optionally `test` or `val` with them.

    Without `train`, all images are training images. No file is opened. Raises DataError if there are no classes or a
    class has no images.
    """
    if not (folder / TRAIN).is_dir():
        return list(_in_classes(folder, folder)), []
    test = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    return list(_in_classes(folder / TRAIN, folder)), list(_in_classes(test, folder)) if test else []


def _in_classes(folder: Path, root: Path) -> Iterator[ImageEntry]:
    """List the images in the class folders in `folder`, in sorted order. Hidden files and folders are skipped."""
    labels = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not labels:
        raise DataError(f"{folder}: contains neither one subfolder per class nor files in MNIST's format")
    for label in labels:
        # is_image_name skips the folders that cannot be listed
        paths = [path for path in find_images(str(folder / label), skip_hidden=True) if is_image_name(path)]
        if not paths:
            raise DataError(f"{folder / label}: no images in this class (looked for {', '.join(SUFFIXES)})")
        yield from (ImageEntry(path, os.path.relpath(path, root).replace(os.sep, "/"), label) for path in paths)
