"""Class folders, as in torchvision's ImageFolder: the name of a folder is the label of the images in it.

The class folders may lie in folders of splits, such as train/ and valid/.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from netkit.core.errors import DataError
from netkit.core.walk import list_folder
from netkit.data.image_entry import TEST, TRAIN, VAL, ImageEntry, Splits, split_of
from netkit.data.options import AUTO, CLASSES, SPLITS
from netkit.images.files import SUFFIXES, Skipped, find_images


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
    candidates = {name: split for name in names if (split := split_of(name))}
    others = [name for name in names if name not in candidates]
    if layout == CLASSES or not candidates:
        if layout == SPLITS:
            raise DataError(f"{folder}: --layout splits: no folder is named like a split; rename one to 'train'")
        if layout == AUTO:
            _require_no_splits_in_classes(folder, names)
        return {}
    if layout == AUTO and others:
        # a folder without folders in it cannot be a split, so {test, control} are classes
        unclear = [name for name in candidates if _inner_folders(folder / name)]
        if not unclear:
            return {}
        raise DataError(
            f"{folder}: {unclear[0]}/ can be a split or a class like {others[0]}/; pass --layout splits to use only "
            f"{_listed(candidates)}, or --layout classes if each folder is a class"
        )
    splits: dict[str, str] = {}
    for name, split in candidates.items():
        first = splits.setdefault(split, name)
        if first != name:
            raise DataError(
                f"{folder}: {first}/ and {name}/ are the same split; merge or rename them, or pass --layout classes "
                "if each folder is a class"
            )
    return splits


def _require_no_splits_in_classes(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError if a class folder contains folders for training and for another split."""
    for name in names:
        below = {split: inner for inner in _inner_folders(folder / name) if (split := split_of(inner))}
        if TRAIN in below and len(below) > 1:
            raise DataError(
                f"{folder}: {name}/ contains {_listed(below.values())}; put the folders of the classes into those "
                f"of the splits; or pass --data {folder / name} if they are there, or --layout classes to ignore splits"
            )


def _folders(folder: Path, skipped: Skipped) -> list[str]:
    """Return the names of the folders in `folder`, in sorted order. Raises DataError if it cannot be listed."""
    names = []
    try:
        entries = list_folder(str(folder))
    except OSError as exc:
        raise DataError(f"{folder}: cannot be listed: {exc.strerror}") from None
    for path, is_folder in entries:
        if skipped.skips(path, is_folder=is_folder):
            continue
        if is_folder:
            names.append(os.path.basename(path))
        else:
            skipped.add("image file{s} outside the class folders")
    return names


def _inner_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a class folder; none if it cannot be listed, which is reported later."""
    try:
        return _folders(folder, Skipped())
    except DataError:
        return []


def _in_classes(folder: Path, labels: Sequence[str], root: Path, skipped: Skipped) -> Iterator[ImageEntry]:
    """List the images in the class folders `labels` in `folder`. Folders that cannot be listed are listed as images."""
    if not labels:
        hint = "" if folder == root else ", or remove this folder"
        raise DataError(f"{folder}: contains no subfolders; put the images of each class into a subfolder{hint}")
    for label in labels:
        counts = Skipped()
        paths = list(find_images(str(folder / label), counts))
        if not paths:
            hint = f"; {counts}" if counts else ""
            raise DataError(f"{folder / label}: no images in this class (looked for {', '.join(SUFFIXES)}){hint}")
        skipped.update(counts)
        yield from (ImageEntry(path, os.path.relpath(path, root).replace(os.sep, "/"), label) for path in paths)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"{name}/" for name in names)
