"""Which folders are splits and which are classes, and what each split is for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.core.errors import DataError, UsageError
from netkit.data import image_files, registry
from netkit.data.options import Options


def write(root: Path, *names: str) -> Path:
    """Write two different images into each of the folders `names` in `root`; return `root`."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng([number, *name.encode()]).integers(0, 256, (6, 5), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train", "valid", "val"), ("train", "validation", "val"), ("train", "val", "val"), ("Train", "Test", "test"),
        ("Training", "Testing", "test"), ("training_set", "test_set", "test"), ("TRAIN", "val_set", "val"),
        ("train_data", "test_data", "test"), ("Train Set", "Test Set", "test"), ("trainset", "testset", "test"),
        ("images-train", "images-val", "val"), ("train_split", "dev_split", "val"), ("train", "evaluation", "test"),
    ],
)  # fmt: skip
def test_usual_names_of_split_folders_are_recognized(tmp_path: Path, train: str, other: str, split: str) -> None:
    write(tmp_path, f"{train}/a", f"{train}/b", f"{other}/a", f"{other}/b")
    (tmp_path / "__MACOSX/train").mkdir(parents=True)
    (tmp_path / "README.txt").touch()
    splits = image_files.list_images(tmp_path)
    assert len(splits.train) == len(getattr(splits, split)) == 4
    assert {entry.path.split("/")[-3] for entry in getattr(splits, split)} == {other}
    assert splits.sources == {"train": f"{train}/", split: f"{other}/"}


def test_validation_and_test_images_are_kept_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write(tmp_path, "train/a", "train/b", "valid/a", "valid/b", "test/a", "test/b")
    data = registry.load(str(tmp_path))
    for name, images in (("train", data.train_images), ("valid", data.val_images), ("test", data.test_images)):
        files = {np.asarray(Image.open(path)).tobytes() for path in (tmp_path / name).rglob("*.png")}
        assert images is not None and {image.tobytes() for image in images[:]} == files
    assert data.val_labels is not None and sorted(data.val_labels.tolist()) == [0, 0, 1, 1]
    assert caplog.messages[0].endswith(
        ": 4 training images (train/), 4 validation images (valid/), 4 test images (test/)"
    )
    without = registry.load(str(write(tmp_path / "two", "train/a", "train/b", "test/a", "test/b")))
    assert without.val_images is None and without.val_split is None


def test_validation_images_are_also_the_test_images_if_there_are_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = registry.load(str(write(tmp_path, "train/a", "train/b", "valid/a", "valid/b")))
    assert data.val_images is data.test_images and np.array_equal(data.val_labels, data.test_labels)  # type: ignore[arg-type]
    assert caplog.messages[0].endswith(": 4 training images (train/), 4 validation and test images (valid/)")


def test_changing_a_validation_image_changes_the_hash(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b", "val/a", "val/b", "test/a", "test/b")
    before = registry.load(str(tmp_path)).sha256
    (tmp_path / "train/a/0.png").replace(tmp_path / "val/a/0.png")
    (tmp_path / "test/a/1.png").replace(tmp_path / "train/a/0.png")
    assert registry.load(str(tmp_path)).sha256 != before


def test_a_split_folder_beside_other_folders_needs_an_option(tmp_path: Path) -> None:
    write(tmp_path, "train/steam", "train/diesel", "bus", "car")
    with pytest.raises(
        DataError, match=r"train/ can be a split or a class like bus/; pass --layout splits .*or --layout classes"
    ):
        registry.load(str(tmp_path))
    as_splits = registry.load(str(tmp_path), Options(layout="splits"))
    assert as_splits.labels == ("diesel", "steam") and as_splits.reading == {"layout": "splits"}
    as_classes = registry.load(str(tmp_path), Options(layout="classes"))
    assert as_classes.labels == ("bus", "car", "train")
    assert len(as_classes.train_labels) + len(as_classes.test_labels) == 8
    with pytest.raises(UsageError, match="unknown layout 'split': did you mean 'splits'"):
        Options(layout="split")


def test_a_folder_named_like_a_split_is_a_class_if_it_contains_no_folders(tmp_path: Path) -> None:
    assert registry.load(str(write(tmp_path, "test", "control"))).labels == ("control", "test")


@pytest.mark.parametrize("names", [("cat", "dog"), ("photos",)])
def test_folders_of_splits_below_other_folders_need_an_option(tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path, *(f"{name}/{split}/{label}" for name in names for split in ("train", "test") for label in "ab"))
    message = rf"{names[0]}/ contains test/ and train/; .*--data .*/{names[0]} .*--layout classes"
    with pytest.raises(DataError, match=message):
        registry.load(str(tmp_path))
    splits = image_files.list_images(tmp_path, Options(layout="classes"))
    assert {entry.label for entry in splits.train} == {*names} and not splits.test


def test_a_single_class_that_contains_folders_names_the_folder_to_pass(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"only one class, 'photos'; .*pass --data .*/photos$"):
        registry.load(str(write(tmp_path, "photos/cat", "photos/dog")))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "Training/a"), "Training/ and train/ are the same split"),
        (("test/a", "val/a"), "no images for training: .*--layout classes"),
        (("train", "test"), "train: contains no subfolders; .*, or remove this folder"),
        (("train/a", "train/b", "val/a", "val/c"), "with test images but no training images: c"),
    ],
)
def test_split_folders_that_are_not_a_data_set_are_rejected(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        registry.load(str(write(tmp_path, *folders)))


@pytest.mark.parametrize(("column", "is_split"), [("set", True), ("Data Set", True), ("subset", True), ("by", False)])
@pytest.mark.parametrize("values", [("train", "valid"), ("flickr", "unsplash")])
def test_a_column_with_a_usual_name_and_only_splits_in_it_gives_the_splits(
    tmp_path: Path, column: str, is_split: bool, values: tuple[str, str]
) -> None:
    write(tmp_path, "a", "b")
    rows = [f"{label}/{number}.png,{label},{values[number]}" for label in "ab" for number in range(2)]
    (tmp_path / "all.csv").write_text("\n".join([f"path,label,{column}", *rows]))
    splits = image_files.list_images(tmp_path / "all.csv")
    assert len(splits.val) == (2 if is_split and values[1] == "valid" else 0)
    assert splits.sources.get("val") == (f"column {column.lower()}" if splits.val else None)


def test_a_table_keeps_validation_and_test_images_apart(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    rows = [f"{label}/{number}.png;{label}" for label in "ab" for number in range(2)]
    extra = [f"{name};{label}" for name, label in (("v.png", "a"), ("t.png", "b"))]
    for name in ("v.png", "t.png"):
        Image.new("L", (5, 6)).save(tmp_path / name)
    lines = [f"{row};{split}" for row, split in zip([*rows, *extra], ["train"] * 4 + ["Valid", "TEST"], strict=True)]
    table = tmp_path / "all.csv"
    table.write_text("\n".join(["path;label;Split", *lines]))
    splits = image_files.list_images(table)
    assert [Path(entry.path).name for entry in (*splits.val, *splits.test)] == ["v.png", "t.png"]
    assert Counter(entry.label for entry in splits.train) == {"a": 2, "b": 2}
