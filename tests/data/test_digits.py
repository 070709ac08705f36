"""The bundled digits, against scikit-learn's own file, read here by hand, and against torch's resizing."""

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
from netkit.data.dataset import HeldDataSet


@pytest.fixture(scope="module")
def bundle() -> NDArray[np.int64]:
    """The lines of the bundled file, in its order: 64 levels from 0 to 16, and the label."""
    packed = (files("sklearn.datasets.data") / "digits.csv.gz").read_bytes()
    return np.array([list(map(float, line)) for line in csv.reader(gzip.decompress(packed).decode().split())], int)


def in_test_part(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which lines are for testing: the fifth of each class, the tenth, and so on."""
    seen = [0] * 10
    chosen = []
    for label in labels.tolist():
        seen[label] += 1
        chosen.append(seen[label] % 5 == 0)
    return np.array(chosen)


def test_all_images_are_there_once_in_a_fixed_split(digits_data: HeldDataSet, bundle: NDArray[np.int64]) -> None:
    test = in_test_part(bundle[:, 64])
    assert (len(test), test.sum()) == (1797, 355)
    assert np.array_equal(digits_data.train_labels, bundle[~test, 64])
    assert np.array_equal(digits_data.test_labels, bundle[test, 64])
    images = [image.tobytes() for part in (digits_data.train_images, digits_data.test_images) for image in part]
    assert len(images) == len(set(images)) == 1797


def test_every_class_has_four_images_for_training_to_one_for_testing(digits_data: HeldDataSet) -> None:
    train, test = np.bincount(digits_data.train_labels), np.bincount(digits_data.test_labels)
    assert digits_data.labels == tuple("0123456789")
    assert len(train) == len(test) == 10
    assert np.all((train - 4 * test >= 0) & (train - 4 * test <= 4))


def test_images_are_what_torch_makes_of_the_bundle(digits_data: HeldDataSet, bundle: NDArray[np.int64]) -> None:
    """Row by row and then column by column, each rounded to a byte; antialias makes torch's cubic that of Pillow."""
    resized = torch.tensor(bundle[:, :64].reshape(-1, 1, 8, 8) * 255 / 16).round()
    for size in ((8, 28), (28, 28)):
        resized = F.interpolate(resized, size=size, mode="bicubic", antialias=True).clamp(0, 255).round()
    test = in_test_part(bundle[:, 64])
    for images, reference in ((digits_data.train_images, resized[~test]), (digits_data.test_images, resized[test])):
        assert images.dtype == np.uint8
        assert np.abs(images - reference.numpy()).max() <= 2  # halves can be rounded to either side, twice


def test_ink_is_white_and_the_ground_black(digits_data: HeldDataSet) -> None:
    corners = digits_data.train_images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.median(corners) == 0
    assert digits_data.train_images.max() == 255
    zeros = digits_data.train_images[digits_data.train_labels == 0, 0].mean(axis=0)
    assert zeros[14, 14] < 20 < 150 < zeros[14, 7:21].max()  # a hole, and ink around it


def test_the_hash_is_that_of_the_four_parts_and_the_same_every_time(digits_data: HeldDataSet) -> None:
    again = digits.load()
    parts = (again.train_images, again.train_labels, again.test_images, again.test_labels)
    assert again.sha256 == digits_data.sha256 == hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert (again.name, again.source) == ("digits", "digits")
