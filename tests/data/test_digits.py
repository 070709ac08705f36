"""The bundled digits, compared with scikit-learn's file and torch's resizing."""

import csv
import gzip
import hashlib
from importlib.resources import files

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from netkit.data import digits
from netkit.data.dataset import ArrayDataSet


@pytest.fixture(scope="module")
def bundled_rows() -> NDArray[np.int64]:
    """The rows of the bundled file in order: 64 levels from 0 to 16, and the label."""
    packed = (files("sklearn.datasets.data") / "digits.csv.gz").read_bytes()
    return np.array([list(map(float, line)) for line in csv.reader(gzip.decompress(packed).decode().split())], int)


def mask_of_test_images(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the mask of the test images: every fifth image of each class."""
    counts = [0] * 10
    mask = []
    for label in labels.tolist():
        counts[label] += 1
        mask.append(counts[label] % 5 == 0)
    return np.array(mask)


def test_each_image_appears_once_in_a_fixed_split(digits_data: ArrayDataSet, bundled_rows: NDArray[np.int64]) -> None:
    test = mask_of_test_images(bundled_rows[:, 64])
    assert (len(test), test.sum()) == (1797, 355)
    assert np.array_equal(digits_data.train_labels, bundled_rows[~test, 64])
    assert np.array_equal(digits_data.test_labels, bundled_rows[test, 64])
    images = [image.tobytes() for part in (digits_data.train_images, digits_data.test_images) for image in part]
    assert len(images) == len(set(images)) == 1797


def test_every_class_has_about_four_times_as_many_training_images_as_test_images(digits_data: ArrayDataSet) -> None:
    train, test = np.bincount(digits_data.train_labels), np.bincount(digits_data.test_labels)
    assert digits_data.labels == tuple("0123456789")
    assert len(train) == len(test) == 10
    assert np.all((train - 4 * test >= 0) & (train - 4 * test <= 4))


def test_images_equal_torchs_bicubic_resizing_of_the_bundle(
    digits_data: ArrayDataSet, bundled_rows: NDArray[np.int64]
) -> None:
    """Resize rows, then columns, and round after each, as Pillow does. With antialias, torch uses the same filter."""
    resized = torch.tensor(bundled_rows[:, :64].reshape(-1, 1, 8, 8) * 255 / 16).round()
    for size in ((8, 28), (28, 28)):
        resized = F.interpolate(resized, size=size, mode="bicubic", antialias=True).clamp(0, 255).round()
    test = mask_of_test_images(bundled_rows[:, 64])
    for images, reference in ((digits_data.train_images, resized[~test]), (digits_data.test_images, resized[test])):
        assert images.dtype == np.uint8
        assert np.abs(images - reference.numpy()).max() <= 2  # each of the two roundings may round halves either way


def test_digits_are_white_on_black(digits_data: ArrayDataSet) -> None:
    corners = digits_data.train_images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.median(corners) == 0
    assert digits_data.train_images.max() == 255
    zeros = digits_data.train_images[digits_data.train_labels == 0, 0].mean(axis=0)
    assert zeros[14, 14] < 20 < 150 < zeros[14, 7:21].max()  # dark inside a bright ring


def test_the_hash_covers_the_four_parts_and_is_the_same_every_time(digits_data: ArrayDataSet) -> None:
    again = digits.load()
    parts = (again.train_images, again.train_labels, again.test_images, again.test_labels)
    assert again.sha256 == digits_data.sha256 == hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert (again.name, again.source) == ("digits", "digits")
