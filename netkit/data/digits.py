"""scikit-learn's bundled handwritten digits (Alpaydin and Kaynak 1998, UCI): 1,797 real images, no network needed."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from netkit.data.dataset import ArrayDataSet

SIDE = 28  # pixels, as in MNIST, so that the same networks can be used; the bundled images are 8x8


def load() -> ArrayDataSet:
    """Load the digits at 28x28, white on black like MNIST. Every fifth image of each class is a test image."""
    rows = np.loadtxt(_bundled_file(), delimiter=",")
    images = np.stack([_resize(levels) for levels in rows[:, :64].reshape(-1, 8, 8)])[:, None]
    labels = rows[:, 64].astype(np.int64)
    rank_in_class = np.empty(len(labels), np.int64)
    for label in range(10):
        rank_in_class[labels == label] = np.arange((labels == label).sum())
    test = rank_in_class % 5 == 4
    parts = images[~test], labels[~test], images[test], labels[test]
    return ArrayDataSet("digits", "digits", _sha256(parts), tuple(map(str, range(10))), *parts)


def _bundled_file() -> Path:
    """Return scikit-learn's file without importing scikit-learn, which takes 2 s. A row has 64 levels and a label."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(package.origin).with_name("datasets") / "data/digits.csv.gz"


def _resize(levels: np.ndarray) -> np.ndarray:
    """Resize an 8x8 image with levels 0 to 16 to 28x28 uint8."""
    small = Image.fromarray((levels * 255 / 16).round().astype(np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _sha256(parts: tuple[np.ndarray, ...]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.tobytes())
    return total.hexdigest()
