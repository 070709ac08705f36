"""DataSet: images and labels for training and testing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from netkit.data.lazy import Images, batches
from netkit.images.limits import MAX_FILE_BYTES, MAX_PIXELS

MAX_BATCH_PIXELS = 10_000 * 28 * 28  # bounds the memory for squared pixels


@dataclass(frozen=True)
class DataSet:
    """Images uint8 (N, channels, height, width), in memory or in files, and labels int64 (N,), indices into `labels`.

    Validation images are for choices during training, test images for the reported accuracy. `val_images` and
    `val_labels` are None without a validation split. If one split serves as both, `val_images` is `test_images`.

    `source` is the value of --data that loads the same data set again: "digits", or an absolute path. `sha256` is the
    hash of the four unpacked parts (train images, train labels, test images, test labels) or, for image files, of their
    names, labels and contents. `resize` and `draft` are those of model_card.Input. `fixed_mean_and_std` holds mean and
    std if the user set them. `val_split` is the share of images that was selected for testing, or None if the data set
    has its own test images. `reading` holds the options with which `source` was read that are not the defaults. Image
    files over `max_bytes` or `max_pixels` were skipped.
    """

    name: str
    source: str
    sha256: str
    labels: tuple[str, ...]
    train_images: Images
    train_labels: NDArray[np.int64]
    test_images: Images
    test_labels: NDArray[np.int64]
    resize: int | None = None
    fixed_mean_and_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    val_split: float | None = None
    val_images: Images | None = None
    val_labels: NDArray[np.int64] | None = None
    reading: Mapping[str, str] = field(default_factory=dict)
    draft: bool = False
    max_bytes: int = MAX_FILE_BYTES
    max_pixels: int = MAX_PIXELS

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of the training pixels in [0, 1], one number per channel, rounded to four decimals."""
        if self.fixed_mean_and_std:
            return self.fixed_mean_and_std
        count, channels, height, width = self.train_images.shape
        totals, squares = np.zeros((2, channels), object)  # Python's integers do not overflow
        batch_size = max(1, MAX_BATCH_PIXELS // (height * width))
        index_arrays = (np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size))
        for images in batches(self.train_images, index_arrays):
            for channel in range(channels):
                totals[channel] += int(images[:, channel].sum(dtype=np.int64))
                squares[channel] += int(np.square(images[:, channel], dtype=np.uint16).sum(dtype=np.int64))
        pixels = count * height * width
        pairs = zip(totals, squares, strict=True)
        means = tuple(round(total / pixels / 255, 4) for total in totals)
        return means, tuple(round(math.sqrt(pixels * square - total**2) / pixels / 255, 4) for total, square in pairs)


@dataclass(frozen=True)
class ArrayDataSet(DataSet):
    """A data set whose images are arrays in memory."""

    train_images: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
