"""The sample: PNG files that decode to exactly the test images, in a folder that contains no other files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import UsageError
from netkit.data.dataset import ArrayDataSet
from netkit.data.sample import write_sample


def decode(path: Path) -> NDArray[np.uint8]:
    """Decode a PNG file to (channels, height, width)."""
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode in ("L", "RGB")
        return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_decode_to_the_test_images_in_folders_named_after_labels(
    digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    assert write_sample(digits_data, tmp_path / "new/images") == 355
    labels = digits_data.test_labels.tolist()
    paths = [f"{label}/{index}.png" for index, label in enumerate(labels)]
    assert files_in(tmp_path / "new/images") == sorted(paths)
    for path, image in zip(paths, digits_data.test_images, strict=True):
        assert np.array_equal(decode(tmp_path / "new/images" / path), image)


@pytest.mark.parametrize("shape", [(3, 9, 8), (1, 9, 8), (1, 9, 1), (1, 1, 8), (3, 1, 1)])
def test_images_of_every_shape_are_written_unchanged(
    digits_data: ArrayDataSet, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    names = ("T-shirt", "b", "c")
    data = replace(digits_data, test_images=images, test_labels=np.array([2, 0, 0, 1]), labels=names)
    assert write_sample(data, tmp_path) == 4
    paths = ["c/0.png", "T-shirt/1.png", "T-shirt/2.png", "b/3.png"]
    assert files_in(tmp_path) == sorted(paths)
    for path, image in zip(paths, images, strict=True):
        assert np.array_equal(decode(tmp_path / path), image)


@pytest.mark.parametrize(("count", "written"), [(1, 1), (20, 20), (355, 355), (5000, 355)])
def test_a_count_limits_the_sample_to_the_first_images(
    digits_data: ArrayDataSet, tmp_path: Path, count: int, written: int
) -> None:
    assert write_sample(digits_data, tmp_path, count=count) == written
    assert {int(Path(path).stem) for path in files_in(tmp_path)} == set(range(written))


@pytest.mark.parametrize("folder", ["images", "./images", "images/", "."])
def test_writing_again_restores_changed_files(
    digits_data: ArrayDataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sample(digits_data, Path(folder), count=3)
    label = digits_data.labels[digits_data.test_labels[0]]
    changed = tmp_path / folder / label / "0.png"
    content = changed.read_bytes()
    changed.write_bytes(b"")
    assert write_sample(digits_data, Path(folder), count=5) == 5
    assert changed.read_bytes() == content
    assert len(files_in(tmp_path)) == 5


@pytest.mark.parametrize("other", ["notes.txt", "0/9999.png", "kept/deep/a.png", "0.png"])
def test_the_error_names_another_file_in_the_folder_and_nothing_is_written(
    digits_data: ArrayDataSet, tmp_path: Path, other: str
) -> None:
    folder = tmp_path / "images"
    (folder / other).parent.mkdir(parents=True)
    (folder / other).touch()
    with pytest.raises(UsageError) as caught:
        write_sample(digits_data, folder)
    assert (
        str(caught.value)
        == f"{folder}: contains {folder / other}, which is not part of this sample; pass a new or empty folder"
    )
    assert files_in(folder) == [other]


def test_hidden_files_in_the_folder_are_ignored(digits_data: ArrayDataSet, tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    assert write_sample(digits_data, tmp_path, count=1) == 1


@pytest.mark.parametrize("label", ["../../escaped", "..", ".", "/tmp/x", "a/b", "a\0", ".hidden", "@eaDir"])
def test_a_label_that_is_not_the_name_of_a_folder_is_rejected(
    digits_data: ArrayDataSet, tmp_path: Path, label: str
) -> None:
    data = replace(digits_data, labels=(label, *digits_data.labels[1:]))
    with pytest.raises(UsageError, match="cannot be the name of a class folder; rename it in the data set"):
        write_sample(data, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_larger_sample_in_the_folder_is_rejected(digits_data: ArrayDataSet, tmp_path: Path) -> None:
    write_sample(digits_data, tmp_path, count=4)
    with pytest.raises(UsageError, match=r"3\.png, which is not part of this sample"):
        write_sample(digits_data, tmp_path, count=3)


def test_the_error_names_a_file_in_place_of_the_folder(digits_data: ArrayDataSet, tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(UsageError, match=f"^{tmp_path / 'images'}: is a file; pass the name of a new or empty folder$"):
        write_sample(digits_data, tmp_path / "images")
