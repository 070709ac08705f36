"""Read a .csv table that lists image files: columns `path` (relative to the table), `label` and optionally `split`."""

import csv
from pathlib import Path

from netkit.core.errors import DataError
from netkit.data.image_entry import TEST_NAMES, TRAIN, ImageEntry, Split


def read_table(path: Path) -> Split:
    """List the images in a table. No image file is opened. An empty `split` means a training image.

    Raises DataError if the table cannot be read, or a row lacks a path or a label or has an unknown split.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as exc:
        raise DataError(f"{path}: cannot be read as a table: {exc}") from None
    train: list[ImageEntry] = []
    test: list[ImageEntry] = []
    for number, row in enumerate(rows, start=2):
        if not row.get("path") or not row.get("label"):
            raise DataError(f"{path}, line {number}: a row needs a value in the columns 'path' and 'label'")
        split = row.get("split") or TRAIN
        if split not in (TRAIN, *TEST_NAMES):
            raise DataError(f"{path}, line {number}: split must be {TRAIN}, {' or '.join(TEST_NAMES)}, not {split!r}")
        part = train if split == TRAIN else test
        part.append(ImageEntry(str(path.parent / row["path"]), row["path"], row["label"]))
    return train, test
