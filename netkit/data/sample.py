"""Test images as PNG files in class folders, for trying out a model."""

import os
from pathlib import Path

from PIL import Image

from netkit.core.errors import UsageError
from netkit.core.walk import is_skipped, walk
from netkit.data.dataset import DataSet


def write_sample(data: DataSet, folder: Path, *, count: int | None = None) -> int:
    """Write the first `count` test images (default: all) as folder/<label>/<index>.png. Return the number of files.

    Raises UsageError if the folder contains any other file, which would be mistaken for a part of the sample, or if a
    label cannot be the name of a class folder: it contains a separator, or folder walks skip it, such as "..".
    """
    for label in data.labels:
        if is_skipped(label) or {os.sep, os.altsep, "\0"} & {*label}:
            raise UsageError(f"the label {label!r} cannot be the name of a class folder; rename it in the data set")
    images = data.test_images[:count]
    paths = [
        folder / data.labels[label] / f"{index}.png" for index, label in enumerate(data.test_labels[:count].tolist())
    ]
    _require_no_other_files(folder, set(paths))
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
    return len(paths)


def _require_no_other_files(folder: Path, sample: set[Path]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file; pass the name of a new or empty folder")
    for path in map(Path, walk([(str(folder), True)])):
        if path not in sample and not is_skipped(path.name):
            raise UsageError(f"{folder}: contains {path}, which is not part of this sample; pass a new or empty folder")
