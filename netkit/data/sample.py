"""Test images as PNG files in class folders, to try a model on."""

import os
from pathlib import Path

from PIL import Image

from netkit.core.errors import UsageError
from netkit.data.dataset import DataSet


def write_sample(data: DataSet, folder: Path, *, count: int | None = None) -> int:
    """Write the first `count` test images (None: all) as folder/<label>/<index>.png; gives how many.

    Raises UsageError where the folder holds anything else: it would be taken for part of the sample.
    """
    images = data.test_images[:count]
    paths = [
        folder / data.labels[label] / f"{index}.png" for index, label in enumerate(data.test_labels[:count].tolist())
    ]
    _refuse_strangers(folder, set(paths))
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
    return len(paths)


def _refuse_strangers(folder: Path, wanted: set[Path]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: a file, not a folder")
    for parent, _, names in os.walk(folder):
        strangers = [path for name in names if (path := Path(parent, name)) not in wanted]
        if strangers:
            raise UsageError(f"{folder}: holds {strangers[0]}, no part of this sample; name a new folder")
