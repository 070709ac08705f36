"""DataSet: images and labels, for training and for testing; and `load`, from what --data says to a DataSet."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nets.errors import UsageError, unknown_name

BUILT_IN = ("mnist", "digits")


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

    @property
    def built_in(self) -> bool:
        """Whether --data knows it by its name alone."""
        return self.name in BUILT_IN

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels in [0, 1], one number a channel, to four decimals."""
        means, stds = [], []
        for channel in range(self.train_images.shape[1]):
            counts = np.bincount(self.train_images[:, channel].ravel(), minlength=256)
            levels = np.arange(256) / 255
            mean = np.average(levels, weights=counts)
            means.append(round(float(mean), 4))
            stds.append(round(float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))), 4))
        return tuple(means), tuple(stds)


def load(source: str) -> DataSet:
    """The data set that --data names: "mnist", "digits", or a folder of files in MNIST's format.

    Raises UsageError where there is no such source, DataError where its files are missing or damaged.
    """
    from nets.data import digits, idx, mnist

    if source == "mnist":
        return mnist.load()
    if source == "digits":
        return digits.load()
    if idx.exists(Path(source)):
        return idx.load(Path(source))
    if "/" in source:
        raise UsageError(
            f"{source}: no such folder; --data takes {', '.join(BUILT_IN)} or a folder of files in MNIST's format"
        )
    raise unknown_name("data set", source, [*BUILT_IN, "DIR"])
