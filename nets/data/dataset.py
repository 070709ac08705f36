"""DataSet: images and labels, for training and for testing."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DataSet:
    """Images uint8 (N, channels, height, width) and labels int64 (N,), indices into `labels`.

    `source` is what --data takes to get the same data set again: "digits", or an absolute path.
    `sha256` is that of the four unpacked parts, one after the other: train images, train labels, test images, test
    labels.
    """

    name: str
    source: str
    sha256: str
    labels: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels in [0, 1], one number a channel, to four decimals."""
        means, stds = [], []
        for channel in range(self.train_images.shape[1]):
            pixels = self.train_images[:, channel]
            total = int(pixels.sum(dtype=np.int64))
            squares = int(np.square(pixels, dtype=np.uint16).sum(dtype=np.int64))
            means.append(round(total / pixels.size / 255, 4))
            stds.append(round(math.sqrt(pixels.size * squares - total**2) / pixels.size / 255, 4))
        return tuple(means), tuple(stds)
