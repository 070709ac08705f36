"""MNIST's file format, compared with torchvision's reader, and the error message for each kind of damage."""

import gzip
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets.mnist import read_image_file, read_label_file

from netkit.core.errors import DataError
from netkit.data import idx
from netkit.data.dataset import ArrayDataSet

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
NAMES = [f"train-{IMAGES}", f"train-{LABELS}", f"t10k-{IMAGES}", f"t10k-{LABELS}"]


def packed_numbers(*numbers: int) -> bytes:
    return np.array(numbers, ">u4").tobytes()


def image_file(count: int = 6, *, height: int = 5, width: int = 7) -> bytes:
    pixels = np.random.default_rng(count).integers(0, 256, count * height * width, np.uint8)
    return packed_numbers(0x0803, count, height, width) + pixels.tobytes()


def label_file(*labels: int) -> bytes:
    return packed_numbers(0x0801, len(labels)) + bytes(labels)


def make_set(folder: Path, *, prefix: str = "", test: str = "t10k", gz: bool = False) -> Path:
    """Write six training and two test images of 5x7 pixels with labels from 0 to 9, and return the folder."""
    folder.mkdir(exist_ok=True)
    contents = [image_file(6), label_file(3, 1, 4, 1, 5, 9), image_file(2), label_file(2, 6)]
    for name, content in zip(NAMES, contents, strict=True):
        path = folder / (prefix + name.replace("t10k", test))
        if gz:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)
    return folder


def labels_at(path: Path) -> list[list[int]]:
    """Return the labels of the data set at `path`; they show which files were read."""
    data = idx.load(path)
    return [data.train_labels.tolist(), data.test_labels.tolist()]


def test_packed_and_unpacked_files_give_what_torchvision_reads(tmp_path: Path) -> None:
    plain, packed = make_set(tmp_path / "plain"), make_set(tmp_path / "packed", gz=True)
    contents = [(plain / name).read_bytes() for name in NAMES]
    for data in (idx.load(plain), idx.load(packed)):
        for split, images, labels in (
            ("train", data.train_images, data.train_labels),
            ("t10k", data.test_images, data.test_labels),
        ):
            assert images.dtype == np.uint8 and labels.dtype == np.int64
            assert torch.equal(torch.tensor(images), read_image_file(str(plain / f"{split}-{IMAGES}"))[:, None])
            assert torch.equal(torch.tensor(labels), read_label_file(str(plain / f"{split}-{LABELS}")))
        assert data.train_images.shape == (6, 1, 5, 7)
        assert data.sha256 == hashlib.sha256(b"".join(contents)).hexdigest()
        assert data.labels == tuple("0123456789")
    assert (data.name, data.source) == ("packed", str(packed))


def test_unpacked_files_take_precedence_over_packed_ones(tmp_path: Path) -> None:
    make_set(tmp_path)
    for name in NAMES:
        (tmp_path / f"{name}.gz").write_bytes(b"never read")
    assert labels_at(tmp_path) == [[3, 1, 4, 1, 5, 9], [2, 6]]


@pytest.mark.parametrize("test", ["test", "t10k"])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
@pytest.mark.parametrize("gz", [True, False])
def test_a_folder_with_one_set_needs_no_prefix(tmp_path: Path, test: str, prefix: str, gz: bool) -> None:
    make_set(tmp_path, prefix=prefix, test=test, gz=gz)
    (tmp_path / "README").touch()
    assert labels_at(tmp_path) == [[3, 1, 4, 1, 5, 9], [2, 6]]


def test_names_may_have_a_dot_in_place_of_the_last_hyphen(tmp_path: Path) -> None:
    for path in list(make_set(tmp_path).iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert labels_at(tmp_path) == [[3, 1, 4, 1, 5, 9], [2, 6]]


def test_the_message_for_a_folder_with_several_sets_lists_paths_that_can_be_loaded(tmp_path: Path) -> None:
    prefixes = ["emnist-", "emnist-letters-", "kmnist_"]
    for number, prefix in enumerate(prefixes):
        make_set(tmp_path, prefix=prefix, test="test")
        (tmp_path / f"{prefix}test-{LABELS}").write_bytes(label_file(number, number))
    with pytest.raises(DataError) as caught:
        idx.load(tmp_path)
    start, _, choices = str(caught.value).partition("pass one with --data: ")
    assert start == f"{tmp_path}: contains several data sets; "
    assert choices.split(", ") == [str(tmp_path / name) for name in ("emnist", "emnist-letters", "kmnist")]
    for number, choice in enumerate(map(Path, choices.split(", "))):
        assert idx.exists(choice)
        assert labels_at(choice) == [[3, 1, 4, 1, 5, 9], [number, number]]
        assert (idx.load(choice).name, idx.load(choice).source) == (choice.name, str(choice))


def test_the_path_of_a_folder_loads_the_set_without_prefix(tmp_path: Path) -> None:
    make_set(tmp_path)
    make_set(tmp_path, prefix="emnist-")
    (tmp_path / f"emnist-t10k-{LABELS}").write_bytes(label_file(7, 8))
    assert labels_at(tmp_path) == [[3, 1, 4, 1, 5, 9], [2, 6]]
    assert labels_at(tmp_path / "emnist") == [[3, 1, 4, 1, 5, 9], [7, 8]]


def test_a_path_that_is_not_the_prefix_of_a_set_does_not_exist(tmp_path: Path) -> None:
    make_set(tmp_path, prefix="emnist-letters-")
    assert not any(idx.exists(tmp_path / name) for name in ("mnist", "letters", "emnist-l", "nowhere/emnist-letters"))


def test_labels_are_the_numbers_up_to_the_largest_class_in_either_split(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / f"t10k-{LABELS}").write_bytes(label_file(25, 0))
    assert idx.load(tmp_path).labels == tuple(map(str, range(26)))


def truncated_gzip(content: bytes) -> bytes:
    packed = gzip.compress(content)
    return packed[: len(packed) // 2]


def gzip_with_wrong_checksum(content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content))
    packed[-6] ^= 1
    return bytes(packed)


DAMAGES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    (f"train-{IMAGES}", lambda content: content[:10], "10 bytes (unpacked) are too few for a header"),
    (f"train-{IMAGES}", lambda content: b"", "0 bytes (unpacked) are too few for a header"),
    (
        f"train-{IMAGES}",
        lambda content: label_file(*range(20)),
        "not in MNIST's format: magic number 0x00000801, not 0x00000803",
    ),
    (f"t10k-{LABELS}", lambda content: image_file(), "not in MNIST's format: magic number 0x00000803, not 0x00000801"),
    (
        f"t10k-{LABELS}",
        lambda content: b"\0\0\x0d\1" + content[4:],
        "not in MNIST's format: magic number 0x00000d01, not 0x00000801",
    ),
    (f"t10k-{LABELS}", gzip.compress, "not in MNIST's format: magic number 0x1f8b08"),
    (f"t10k-{LABELS}.gz", lambda content: content, r"damaged: Not a gzipped file (b'\x00\x00')"),
    (f"t10k-{LABELS}.gz", truncated_gzip, "damaged: Compressed file ended before the end-of-stream marker"),
    (f"t10k-{IMAGES}.gz", gzip_with_wrong_checksum, "damaged: CRC check failed"),
    (f"t10k-{IMAGES}.gz", lambda content: gzip.compress(content)[:10] + b"\xff" * 99, "damaged: Error -3"),
    (
        f"train-{IMAGES}",
        lambda content: content[:-1],
        "damaged: only 209 bytes after the header, which declares 210 (unpacked)",
    ),
    (
        f"train-{IMAGES}",
        lambda content: content + b"\0",
        "damaged: more bytes after the header, which declares 210 (unpacked)",
    ),
    (
        f"train-{IMAGES}.gz",
        lambda content: gzip.compress(packed_numbers(0x0803, 2**20, 2**10, 2**10)),
        "the header declares 1,099,511,627,776 bytes, not 1 to 2,147,483,648",
    ),
    (f"train-{LABELS}", lambda content: label_file(1, 2, 3), "3 labels for 6 images"),
    (f"t10k-{LABELS}", lambda content: label_file(1, 2, 3), "3 labels for 2 images"),
    (
        f"t10k-{IMAGES}",
        lambda content: image_file(2, height=7, width=5),
        "images of 7x5 pixels, but the training images have 5x7",
    ),
    (f"train-{IMAGES}", lambda content: image_file(6, width=0), "the header declares 0 bytes, not 1 to 2,147,483,648"),
    (f"t10k-{IMAGES}", lambda content: image_file(0), "the header declares 0 bytes"),
    (f"t10k-{LABELS}", lambda content: label_file(), "the header declares 0 bytes"),
]


@pytest.mark.parametrize(("name", "change", "message"), DAMAGES, ids=range(len(DAMAGES)))
def test_the_message_for_a_damaged_file_names_the_file_and_the_damage(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    unpacked = make_set(tmp_path) / name.removesuffix(".gz")
    content = unpacked.read_bytes()
    unpacked.unlink()
    (tmp_path / name).write_bytes(change(content))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}: {message}")):
        idx.load(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_names_a_missing_file(tmp_path: Path, name: str) -> None:
    (make_set(tmp_path) / name).unlink()
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path}: contains files in MNIST's format, but no {name} or {name}.gz")
    ):
        idx.load(tmp_path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_the_error_names_a_folder_or_pipe_in_place_of_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = make_set(tmp_path) / f"train-{LABELS}"
    path.unlink()
    make(path)
    with pytest.raises(DataError, match=f"{path}: not a regular file"):
        idx.load(tmp_path)


def test_the_message_for_a_wrong_hash_names_both_hashes(tmp_path: Path) -> None:
    make_set(tmp_path, gz=True)
    hashes = dict.fromkeys(idx.FILES, "")
    for part, name in idx.FILES.items():
        hashes[part] = hashlib.sha256(gzip.decompress((tmp_path / f"{name}.gz").read_bytes())).hexdigest()
    assert idx.load(tmp_path, name="mine", sha256=hashes).name == "mine"
    path, actual, other = tmp_path / f"t10k-{LABELS}.gz", hashes["test-labels"], "0" * 64
    message = f"{path}: SHA-256 {actual} (unpacked), not {other}; delete it and download it again"
    with pytest.raises(DataError, match=re.escape(message)):
        idx.load(tmp_path, sha256={**hashes, "test-labels": other})


def test_real_mnist_equals_what_torchvision_reads(tmp_path: Path, mnist_data: ArrayDataSet) -> None:
    for split, kind, array in (
        ("t10k", IMAGES, mnist_data.test_images[:, 0]),
        ("t10k", LABELS, mnist_data.test_labels),
        ("train", LABELS, mnist_data.train_labels),
    ):
        path = Path(mnist_data.source) / f"{split}-{kind}"
        if not path.exists():
            packed, path = path.with_name(f"{path.name}.gz"), tmp_path / path.name
            path.write_bytes(gzip.decompress(packed.read_bytes()))
        assert np.array_equal(array, (read_image_file if kind == IMAGES else read_label_file)(str(path)))
