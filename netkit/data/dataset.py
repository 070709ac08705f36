"""DataSet: images and labels, for training and for testing."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.data.lazy import Images, slices

CHUNK = 10_000  # images whose squares are in memory at once


@dataclass(frozen=True)
class DataSet:
    """Images uint8 (N, channels, height, width) and labels int64 (N,), indices into `labels`.

    Images are an array, or lie in files. `resize` is that of model_card.Input, by which they became what they are;
    `given` are mean and std where somebody said them; `val_split` is the share that was kept for testing, None where
    the data set has tests of its own.
    `source` is what --data takes to get the same data set again: "digits", or an absolute path.
    `sha256` is that of the four unpacked parts, one after the other: train images, train labels, test images, test
    labels; of image files, that of their names, labels and contents.
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
    given: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    val_split: float | None = None

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels in [0, 1], one number a channel, to four decimals."""
        if self.given:
            return self.given
        count, channels, height, width = self.train_images.shape
        totals, squares = np.zeros((2, channels), object)  # Python's integers, which have no largest
        for images in slices(self.train_images, max(1, CHUNK * 784 // (height * width))):
            for channel in range(channels):
                totals[channel] += int(images[:, channel].sum(dtype=np.int64))
                squares[channel] += int(np.square(images[:, channel], dtype=np.uint16).sum(dtype=np.int64))
        pixels = count * height * width
        pairs = zip(totals, squares, strict=True)
        means = tuple(round(total / pixels / 255, 4) for total in totals)
        return means, tuple(round(math.sqrt(pixels * square - total**2) / pixels / 255, 4) for total, square in pairs)


@dataclass(frozen=True)
class HeldDataSet(DataSet):
    """One whose images are arrays in memory."""

    train_images: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
