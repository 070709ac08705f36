"""Data sets in MNIST's file format (IDX, yann.lecun.com/exdb/mnist): Fashion-MNIST, KMNIST, EMNIST and MNIST itself."""

import gzip
import hashlib
import math
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError
from netkit.data.dataset import ArrayDataSet

FILES = {  # the four parts, in the order in which they are hashed
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "test-images": "t10k-images-idx3-ubyte",
    "test-labels": "t10k-labels-idx1-ubyte",
}
NAME = re.compile(r"(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?")
MAX_ARRAY_BYTES = 2**31  # unpacked; a header that declares more is damaged or malicious


class Idx(NamedTuple):
    """The array in an IDX file, and the unpacked content of the file."""

    array: NDArray[np.uint8]
    content: bytes


def exists(path: Path) -> bool:
    """Whether `path` is a folder of IDX files, or a folder and a prefix of IDX files in it (emnist/emnist-letters)."""
    return bool(_sets_in(path)) or path.name in _sets_in(path.parent)


def load(path: Path, *, name: str | None = None, sha256: Mapping[str, str] | None = None) -> ArrayDataSet:
    """Load the data set whose four files are in the folder `path`, compressed with gzip or not.

    If the folder contains several data sets, as with EMNIST, `path` is the folder and a prefix: raw/emnist-letters.
    `sha256` maps each part in FILES to the expected hash of its unpacked content. Labels are the class numbers.
    Raises DataError, which names the file, if a file is missing or damaged or has another hash.
    """
    files = _find(path)
    parts = {part: read(file, dimensions=3 if "images" in part else 1) for part, file in files.items()}
    total = hashlib.sha256()
    for part in FILES:
        actual = hashlib.sha256(parts[part].content).hexdigest()
        if sha256 is not None and actual != sha256[part]:
            raise DataError(
                f"{files[part]}: SHA-256 {actual} (unpacked), not {sha256[part]}; delete it and download it again"
            )
        total.update(parts[part].content)
    for split in ("train", "test"):
        images, labels = parts[f"{split}-images"].array, parts[f"{split}-labels"].array
        if len(images) != len(labels):
            raise DataError(f"{files[f'{split}-labels']}: {len(labels)} labels for {len(images)} images")
    (height, width), test_size = parts["train-images"].array.shape[1:], parts["test-images"].array.shape[1:]
    if test_size != (height, width):
        raise DataError(
            f"{files['test-images']}: images of {test_size[0]}x{test_size[1]} pixels, but the training images have "
            f"{height}x{width}"
        )
    classes = 1 + int(max(parts["train-labels"].array.max(), parts["test-labels"].array.max()))
    return ArrayDataSet(
        name=name or path.resolve().name,
        source=str(path.resolve()),
        sha256=total.hexdigest(),
        labels=tuple(map(str, range(classes))),
        train_images=parts["train-images"].array[:, None],
        train_labels=parts["train-labels"].array.astype(np.int64),
        test_images=parts["test-images"].array[:, None],
        test_labels=parts["test-labels"].array.astype(np.int64),
    )


def read(path: Path, *, dimensions: int) -> Idx:
    """Read an IDX file that contains a uint8 array with `dimensions` dimensions.

    Raises DataError, which names the file, if its header or its length is wrong.
    """
    magic = 0x0800 + dimensions  # 0x08: unsigned bytes
    header_bytes = 4 + 4 * dimensions
    if not path.is_file():
        raise DataError(f"{path}: not a regular file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(header_bytes)
            if len(header) < header_bytes:
                raise DataError(f"{path}: {len(header)} bytes (unpacked) are too few for a header")
            actual, *shape = struct.unpack(f">{1 + dimensions}I", header)
            if actual != magic:
                raise DataError(f"{path}: not in MNIST's format: magic number {actual:#010x}, not {magic:#010x}")
            size = math.prod(shape)
            if not 0 < size <= MAX_ARRAY_BYTES:
                raise DataError(f"{path}: the header declares {size:,} bytes, not 1 to {MAX_ARRAY_BYTES:,}")
            body = file.read(size + 1)  # one more, to detect a file that is too long
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise DataError(f"{path}: damaged: {exc}") from None
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from None
    if len(body) != size:
        length = f"only {len(body):,} bytes" if len(body) < size else "more bytes"
        raise DataError(f"{path}: damaged: {length} after the header, which declares {size:,} (unpacked)")
    return Idx(np.frombuffer(body, np.uint8).reshape(shape), header + body)


def _find(path: Path) -> dict[str, Path]:
    """Return the four files by their names in FILES. Raises DataError if one is missing or `path` is ambiguous."""
    sets = _sets_in(path) if path.is_dir() else {"": _sets_in(path.parent).get(path.name, {})}
    if len(sets) > 1 and "" not in sets:
        choices = ", ".join(str(path / name) for name in sorted(sets))
        raise DataError(f"{path}: contains several data sets; pass one with --data: {choices}")
    files = sets.get("") or next(iter(sets.values()), {})
    missing = [part for part in FILES if part not in files]
    if missing:
        raise DataError(
            f"{path}: contains files in MNIST's format, but no {FILES[missing[0]]} or {FILES[missing[0]]}.gz"
        )
    return files


def _sets_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the IDX files in `folder`: prefix without its hyphen -> part -> file. Unpacked files take precedence."""
    sets: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        match = NAME.fullmatch(path.name)
        if match:
            part = f"{match['split'].replace('t10k', 'test')}-{match['kind']}"
            sets.setdefault(match["prefix"].rstrip("-_"), {})[part] = path
    return sets
