"""Mean and std of a data set, compared with numpy in float64 and the literature, and the values of --data."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netkit.core.errors import DataError, UsageError
from netkit.data import registry
from netkit.data.dataset import ArrayDataSet


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder. It contains a data set of 8x9 images in fashion/, and one with a prefix in emnist/."""
    monkeypatch.chdir(tmp_path)
    for folder, prefix in (("fashion", ""), ("emnist", "emnist-letters-")):
        Path(folder).mkdir()
        for part, count in (("train", 3), ("t10k", 2)):
            images = np.array([0x0803, count, 8, 9], ">u4").tobytes() + bytes(count * 72)
            labels = np.array([0x0801, count], ">u4").tobytes() + bytes(range(count))
            (tmp_path / folder / f"{prefix}{part}-images-idx3-ubyte").write_bytes(images)
            (tmp_path / folder / f"{prefix}{part}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_mean_and_std_of_mnist_equal_those_in_the_literature(mnist_data: ArrayDataSet) -> None:
    assert mnist_data.mean_and_std() == ((0.1307,), (0.3081,))


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_of_each_channel_equal_numpys_in_float64(digits_data: ArrayDataSet, channels: int) -> None:
    random = np.random.default_rng(0)
    brightest = np.array([40, 256, 150][:channels]).reshape(-1, 1, 1)
    images = random.integers(0, brightest, (50, channels, 11, 6)).astype(np.uint8)
    mean, std = replace(digits_data, train_images=images).mean_and_std()
    pixels = images.astype(np.float64) / 255
    assert mean == tuple(pixels.mean(axis=(0, 2, 3)).round(4).tolist())
    assert std == tuple(pixels.std(axis=(0, 2, 3)).round(4).tolist())
    assert len(set(mean)) == len(set(std)) == channels


def test_mean_and_std_ignore_the_test_images(digits_data: ArrayDataSet) -> None:
    other = replace(digits_data, test_images=255 - digits_data.test_images)
    assert other.mean_and_std() == digits_data.mean_and_std()


@pytest.mark.parametrize(
    ("source", "name", "path"),
    [
        ("fashion", "fashion", "fashion"),
        ("./fashion/", "fashion", "fashion"),
        ("emnist", "emnist", "emnist"),
        ("emnist/emnist-letters", "emnist-letters", "emnist/emnist-letters"),
        ("emnist/../fashion", "fashion", "fashion"),
    ],
)
def test_the_source_of_a_folder_loads_it_again_from_any_folder(here: Path, source: str, name: str, path: str) -> None:
    data = registry.load(source)
    assert (data.name, data.source, data.train_images.shape) == (name, str(here / path), (3, 1, 8, 9))
    os.chdir("/")
    again = registry.load(data.source)
    assert (again.name, again.sha256) == (name, data.sha256)


def test_mnist_and_digits_are_the_built_in_data_sets_even_if_folders_have_these_names(
    here: Path, mnist_data: ArrayDataSet, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETKIT_DATA", str(Path(mnist_data.source).parent))
    for name, expected in (("mnist", mnist_data), ("digits", digits_data)):
        (here / name).mkdir()
        data = registry.load(name)
        assert (data.name, data.sha256) == (name, expected.sha256)
        assert registry.load(data.source).sha256 == expected.sha256
        with pytest.raises(
            DataError, match=f"^{name}: contains no subfolders; put the images of each class into a subfolder$"
        ):
            registry.load(f"./{name}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", "unknown data set 'mnits': did you mean 'mnist'? known: mnist, digits, a folder"),
        ("DIGITS", "unknown data set 'DIGITS': did you mean 'digits'? known: mnist, digits, a folder"),
        ("fashion-mnist", "unknown data set 'fashion-mnist': known: mnist, digits, a folder"),
        ("cifar100", "unknown data set 'cifar100': known: mnist, digits, a folder"),
        ("", "--data: the name is empty; pass mnist, digits, a folder, or a table"),
        ("./nowhere", "./nowhere: no such folder; pass mnist, digits, a folder, or a table"),
        ("nowhere.csv", "nowhere.csv: no such file; pass mnist, digits, a folder, or a table"),
        ("emnist/mnist", "emnist/mnist: no such folder; pass mnist, digits, a folder, or a table"),
    ],
)
def test_the_message_for_an_unknown_source_lists_the_known_ones(here: Path, source: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.load(source)
    assert str(caught.value).startswith(message)
