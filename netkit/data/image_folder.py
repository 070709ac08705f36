"""Class folders, as in torchvision's ImageFolder: the name of a folder is the label of the images in it.

The class folders may lie in folders of splits, such as train/ and valid/.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from netkit.core.errors import DataError
from netkit.core.walk import list_folder
from netkit.data.image_entry import SPLIT_NAMES, TEST, TRAIN, VAL, ImageEntry, Splits
from netkit.data.options import AUTO, CLASSES, SPLITS
from netkit.images.files import SUFFIXES, Skipped, find_images, is_image_name


def read_folder(folder: Path, layout: str, skipped: Skipped) -> Splits:
    """List the images in `folder`, which contains class folders, or folders of splits with class folders.

    `layout` is as in Options. Without splits, all images are training images. No file is opened. What is not read is
    counted in `skipped`. Raises DataError if there are no classes, a class has no images, or it is unclear whether the
    folders are splits or classes.
    """
    names = _folders(folder, skipped)
    splits = _split_folders(folder, names, layout)
    if not splits:
        return Splits(list(_in_classes(folder, names, folder, skipped)), [], [], {})
    train, val, test = (
        list(_in_classes(folder / name, _folders(folder / name, skipped), folder, skipped)) if name else []
        for name in map(splits.get, (TRAIN, VAL, TEST))
    )
    return Splits(train, val, test, {split: f"{name}/" for split, name in splits.items()})


def _split_folders(folder: Path, names: Sequence[str], layout: str) -> dict[str, str]:
    """Return the folder of each split; nothing if the folders are classes."""
    candidates = [name for name in names if name.lower() in SPLIT_NAMES]
    others = [name for name in names if name.lower() not in SPLIT_NAMES]
    if layout == CLASSES or not candidates:
        if layout == SPLITS:
            raise DataError(f"{folder}: --layout splits: no folder is named like a split; rename one to 'train'")
        return {}
    if layout == AUTO and others:
        # a folder without folders in it cannot be a split, so {test, control} are classes
        unclear = [name for name in candidates if _folders(folder / name, Skipped())]
        if not unclear:
            return {}
        raise DataError(
            f"{folder}: {unclear[0]}/ can be a split or a class like {others[0]}/; pass --layout splits to use only "
            f"{_listed(candidates)}, or --layout classes if each folder is a class"
        )
    splits: dict[str, str] = {}
    for name in candidates:
        first = splits.setdefault(SPLIT_NAMES[name.lower()], name)
        if first != name:
            raise DataError(
                f"{folder}: {first}/ and {name}/ are the same split; merge or rename them, or pass --layout classes "
                "if each folder is a class"
            )
    return splits


def _folders(folder: Path, skipped: Skipped) -> list[str]:
    """Return the names of the folders in `folder`, in sorted order."""
    names = []
    for path, is_folder in list_folder(str(folder)):
        if skipped.skips(path, is_folder=is_folder):
            continue
        if is_folder:
            names.append(os.path.basename(path))
        elif is_image_name(path):
            skipped.add("image file{s} outside the class folders")
    return names


def _in_classes(folder: Path, labels: Sequence[str], root: Path, skipped: Skipped) -> Iterator[ImageEntry]:
    """List the images in the class folders `labels` in `folder`. Folders that cannot be listed are listed as images."""
    if not labels:
        raise DataError(f"{folder}: contains no subfolders; put the images of each class into a subfolder")
    for label in labels:
        counts = Skipped()
        paths = list(find_images(str(folder / label), counts))
        if not paths:
            hint = f"; {counts}" if counts else ""
            raise DataError(f"{folder / label}: no images in this class (looked for {', '.join(SUFFIXES)}){hint}")
        skipped.update(counts)
        yield from (ImageEntry(path, os.path.relpath(path, root).replace(os.sep, "/"), label) for path in paths)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"{name}/" for name in names)
