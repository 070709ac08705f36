"""Data sets of image files, compared with what Pillow reads from the same files, and errors for unusable data sets."""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import DataError, UsageError
from netkit.core.system import usable_cores
from netkit.data import image_files, registry
from netkit.data.dataset import DataSet
from netkit.data.lazy import PREFETCH_PER_THREAD, ImagesInFiles, batches
from netkit.data.options import Options
from netkit.images.files import find_images

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a random image, different for each name, into the folder `set`: write("cat/1.png")."""

    def write_image(name: str, *, size: tuple[int, int] = (6, 5), mode: str = "L") -> Path:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*size, 3) if mode == "RGB" else size
        seed = [*name.encode()]
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
        return path

    return write_image


@pytest.fixture
def two_classes(write: Write, tmp_path: Path) -> Path:
    """A folder with ten images of cats and twenty of dogs, one of them in a subfolder."""
    for number in range(10):
        write(f"cat/{number}.png")
    for number in range(19):
        write(f"dog/{number}.PNG")
    write("dog/puppies/0.bmp")
    return tmp_path / "set"


def pixels_and_labels(data: DataSet) -> Counter[tuple[bytes, str]]:
    """Count the pairs of pixels and label in the training and test images."""
    counts: Counter[tuple[bytes, str]] = Counter()
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        counts.update((image.tobytes(), data.labels[label]) for image, label in zip(images[:], labels, strict=True))
    return counts


def test_each_file_becomes_one_image_labelled_by_its_folder(two_classes: Path) -> None:
    data = image_files.load(two_classes, Options())
    files = [path for path in two_classes.rglob("*") if path.is_file()]
    expected = Counter(
        (np.asarray(Image.open(path)).tobytes(), path.relative_to(two_classes).parts[0]) for path in files
    )
    assert pixels_and_labels(data) == expected
    assert data.labels == ("cat", "dog")
    assert data.train_images.shape[1:] == (1, 6, 5)
    assert (data.name, data.source) == ("set", str(two_classes))


def test_the_same_share_of_each_class_is_kept_for_testing(two_classes: Path) -> None:
    data = image_files.load(two_classes, Options(val_split=0.3))
    assert np.bincount(data.test_labels).tolist() == [3, 6]
    assert np.bincount(data.train_labels).tolist() == [7, 14]
    assert data.val_split == 0.3


def test_the_seed_determines_which_images_are_kept_for_testing(two_classes: Path) -> None:
    first, again, other = (image_files.load(two_classes, Options(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.test_images[:], again.test_images[:]) and first.sha256 == again.sha256
    assert not np.array_equal(first.test_images[:], other.test_images[:]) and first.sha256 != other.sha256
    assert pixels_and_labels(first) == pixels_and_labels(other)


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_existing_training_and_test_folders_are_not_split(write: Write, tmp_path: Path, test_name: str) -> None:
    for name in ("train/a/1.png", "train/a/2.png", "train/b/1.png", f"{test_name}/a/3.png", f"{test_name}/b/2.png"):
        write(name)
    data = image_files.load(tmp_path / "set", Options())
    assert np.bincount(data.train_labels).tolist() == [2, 1]
    assert data.val_split is None
    actual = {image.tobytes() for image in data.test_images[:]}
    assert actual == {
        np.asarray(Image.open(tmp_path / "set" / test_name / name)).tobytes() for name in ("a/3.png", "b/2.png")
    }


def test_training_images_are_shuffled_across_classes(write: Write, tmp_path: Path) -> None:
    for number in range(60):
        write(f"{'ab'[number % 2]}/{number}.png")
    data = image_files.load(tmp_path / "set", Options())
    assert set(data.train_labels[:10]) == {0, 1}


def test_a_table_defines_paths_labels_and_splits(write: Write, tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.png", "y/3.png", "4.png"):
        write(name)
    table = tmp_path / "set/digits.csv"
    table.write_text("label,path,split\nodd,x/1.png,train\neven,x/2.png,\nodd,y/3.png,TEST\neven,4.png, Testing\n")
    data = registry.load(str(table))
    assert data.labels == ("even", "odd")
    assert (len(data.train_labels), len(data.test_labels)) == (2, 2)
    expected = {np.asarray(Image.open(tmp_path / "set" / name)).tobytes() for name in ("x/1.png", "x/2.png")}
    assert {image.tobytes() for image in data.train_images[:]} == expected


def test_a_table_without_splits_keeps_a_share_for_testing(write: Write, tmp_path: Path) -> None:
    rows = [f"{write(f'{n}.png').name},{'ab'[n % 2]}" for n in range(10)]
    table = tmp_path / "set/all.csv"
    table.write_text("\n".join(["path,label", *rows]))
    assert len(image_files.load(table, Options(val_split=0.4)).test_labels) == 4


def test_all_images_are_rgb_if_one_image_has_colors(two_classes: Path, write: Write) -> None:
    write("cat/color.png", mode="RGB")
    assert image_files.load(two_classes, Options()).train_images.shape[1] == 3
    assert image_files.load(two_classes, Options(channels=1)).train_images.shape[1] == 1


def test_images_of_mixed_sizes_need_an_image_size(two_classes: Path, write: Write) -> None:
    write("cat/large.png", size=(12, 10))
    with pytest.raises(
        DataError, match=r"images have 2 different sizes, such as 6x5 \(30\), 12x10 \(1\); pass --image-size"
    ):
        image_files.load(two_classes, Options())
    assert image_files.load(two_classes, Options(size=(8, 7))).train_images.shape[1:] == (1, 8, 7)


def test_training_finds_the_same_files_as_inference(two_classes: Path, write: Write) -> None:
    write("cat/.hidden/1.png")
    write("dog/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg")
    (two_classes / "dog/notes.txt").touch()
    listed = [entry.path for entry in image_files.list_images(two_classes).train]
    assert listed == list(find_images(str(two_classes))) and len(listed) == 30


def test_images_decoded_on_use_equal_images_in_memory(two_classes: Path) -> None:
    in_memory, in_files = (
        image_files.load(two_classes, Options(size=(7, 9)), max_memory_bytes=max_bytes) for max_bytes in (10**9, 0)
    )
    assert isinstance(in_memory.train_images, np.ndarray) and isinstance(in_files.train_images, ImagesInFiles)
    assert (in_memory.sha256, in_memory.mean_and_std()) == (in_files.sha256, in_files.mean_and_std())
    index_arrays = [np.array([3, 1, 4]), np.array([1]), np.arange(12)] * 20
    decoded = batches(in_files.train_images, index_arrays)
    for expected, actual in zip(batches(in_memory.train_images, index_arrays), decoded, strict=True):
        assert expected.dtype == actual.dtype == np.uint8 and np.array_equal(expected, actual)
    assert np.array_equal(in_memory.test_images[:], in_files.test_images[:])


def test_only_a_few_batches_are_decoded_ahead(two_classes: Path) -> None:
    data = image_files.load(two_classes, Options(), max_memory_bytes=0)
    pulled: list[int] = []

    def index_arrays() -> Iterator[NDArray[np.int64]]:
        for number in range(1000):
            pulled.append(number)
            yield np.array([0])

    next(batches(data.train_images, index_arrays()))
    assert len(pulled) == PREFETCH_PER_THREAD * usable_cores() + 1


def test_the_error_names_a_file_deleted_after_loading(two_classes: Path) -> None:
    data = image_files.load(two_classes, Options(), max_memory_bytes=0)
    for path in two_classes.rglob("*.PNG"):
        path.unlink()
    with pytest.raises(DataError, match=r"dog/.*PNG: no such file; it was readable when the data set was loaded"):
        data.train_images[:]


def test_an_unreadable_image_is_logged_and_skipped(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(120):
        write(f"{'ab'[number % 2]}/{number}.png")
    broken = tmp_path / "set/a/0.png"
    broken.write_bytes(broken.read_bytes()[:-20])
    with caplog.at_level(logging.INFO):
        data = image_files.load(tmp_path / "set", Options())
    assert len(data.train_labels) + len(data.test_labels) == 119
    assert any(message.startswith(f"skipped {broken}: ") for message in caplog.messages)


@pytest.mark.parametrize(
    ("broken", "total", "share", "accepted"),
    [(5, 40, 0.01, True), (6, 40, 0.01, False), (6, 40, 0.15, True), (1, 40, 0, False), (0, 40, 0, True)],
)
def test_unreadable_images_are_an_error_above_five_files_and_a_share_of_all(
    write: Write, tmp_path: Path, broken: int, total: int, share: float, accepted: bool
) -> None:
    for number in range(total):
        path = write(f"{'ab'[number % 2]}/{number:02}.png")
        if number < broken:
            path.write_bytes(b"")
    options = Options(max_unreadable=share)
    if accepted:
        data = image_files.load(tmp_path / "set", options)
        assert len(data.train_labels) + len(data.test_labels) == total - broken
    else:
        limit = 5 if share else 0
        message = (
            rf"{broken} of {total} images cannot be read, over the limit of {limit}; .* --max-unreadable (0\.\d+)$"
        )
        with pytest.raises(DataError, match=message) as caught:
            image_files.load(tmp_path / "set", options)
        enough = float(str(caught.value).split()[-1])
        image_files.load(tmp_path / "set", Options(max_unreadable=enough))


def test_a_class_without_readable_images_is_an_error(write: Write, tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        write(name)
    for number in (1, 2):
        (tmp_path / f"set/b/{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="no training image of 'b' can be read"):
        image_files.load(tmp_path / "set", Options())


def test_images_in_linked_folders_are_used_once_although_a_link_leads_back(two_classes: Path, tmp_path: Path) -> None:
    (two_classes / "dog").rename(tmp_path / "dogs")
    (two_classes / "dog").symlink_to(tmp_path / "dogs")
    (tmp_path / "dogs/puppies").rename(tmp_path / "puppies")
    (tmp_path / "dogs/puppies").symlink_to(tmp_path / "puppies")
    (tmp_path / "puppies/all").symlink_to(two_classes)
    assert Counter(entry.label for entry in image_files.list_images(two_classes).train) == {"cat": 10, "dog": 20}


def test_a_folder_that_cannot_be_listed_counts_as_an_unreadable_image(
    two_classes: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_classes / "dog")
    for _ in range(20):  # longer in total than the longest possible path
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(two_classes)
    assert sum(pixels_and_labels(image_files.load(two_classes, Options())).values()) == 30
    (message,) = [message for message in caplog.messages if message.startswith("skipped ")]
    assert f"{two_classes}/dog/ddd" in message and message.endswith(": cannot be read: File name too long")
    with pytest.raises(DataError, match="1 of 31 images cannot be read"):
        image_files.load(two_classes, Options(max_unreadable=0))


def test_what_is_skipped_is_logged_in_one_line(
    two_classes: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("loose.png")
    (two_classes / "cat/1.HEIC").touch()
    with caplog.at_level(logging.INFO):
        image_files.load(two_classes, Options())
    (message,) = [message for message in caplog.messages if ": skipped " in message]
    assert "1 .heic file (format not supported)" in message and "1 image file outside the class folders" in message


def test_splits_and_classes_are_logged(two_classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        image_files.load(two_classes, Options())
    assert caplog.messages == [
        f"{two_classes}: 24 training images, 6 test images (20% of each class, selected with seed 0)",
        "2 classes: cat, dog; 8 to 16 training images per class (fewest: cat, most: dog)",
    ]


def test_classes_of_equal_size_are_logged_with_one_number(
    two_classes: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(10):
        write(f"cat/more/{index}.png")
    with caplog.at_level(logging.INFO):
        image_files.load(two_classes, Options())
    assert caplog.messages[-1] == "2 classes: cat, dog; 16 training images per class"


def test_hidden_files_and_folders_are_skipped(two_classes: Path, write: Write) -> None:
    write(".thumbnails/1.png")
    write("cat/.1.png")
    assert sum(pixels_and_labels(image_files.load(two_classes, Options())).values()) == 30


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "contains no subfolders; put the images of each class into a subfolder"),
        (["only/1.png", "only/2.png"], "only one class, 'only'"),
        (["a/1.png", "b/notes.txt"], "b: no images in this class"),
        (["a/1.png", "a/2.png", "b/1.png"], "class 'b' has only one image; add another"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"],
            "with test images but no training images: c",
        ),
    ],
)
def test_a_folder_that_is_not_a_data_set_is_rejected(
    write: Write, tmp_path: Path, names: list[str], message: str
) -> None:
    (tmp_path / "set").mkdir()
    for name in names:
        write(name) if name.endswith("png") else (tmp_path / "set" / name).parent.mkdir()
    with pytest.raises(DataError, match=message):
        registry.load(str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "the first line is empty; it must name the columns"),
        (
            "file;class\n1.png;a\n",
            "no column 'path' or 'label'; its columns are 'file', 'class'; choose with --path-column and --label-",
        ),
        ("path,class\n1.png,a\n", "no column 'label'; its columns are 'path', 'class'; choose with --label-column$"),
        (
            "path,label,split\n1.png,a,train\n2.png,a,train\n./1.png,a,test\n2.png,b,train\n",
            r"2 rows repeat a file with another label or split: \./1\.png \(test and train\), 2\.png \(a and b\)",
        ),
        ("path,label\n1.png,a\n2.png,\n", "line 3: a row needs a value in the columns 'path' and 'label'"),
        ("path,label,split\n1.png,a,new\n", "line 2: split must be train, val or test, not 'new'"),
        ("path,label\n", "lists no images"),
    ],
)
def test_a_table_that_is_not_a_data_set_is_rejected(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table)
    with pytest.raises(UsageError if message.startswith("no column") else DataError, match=message):
        registry.load(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_split": 0.0}, "--val-split 0: must be above 0 and below 1"),
        ({"mean": (0.5,)}, "--mean needs --std; pass both"),
        ({"std": (0.5,)}, "--std needs --mean; pass both"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "--mean and --std have different lengths, 1 and 2; pass one"),
        ({"mean": (127.0,), "std": (50.0,)}, "--mean 127: must be 0 to 1, as pixels are; divide .* by 255"),
        ({"mean": (math.nan,), "std": (1.0,)}, "--mean nan: must be 0 to 1"),
        ({"mean": (0.1,), "std": (0.0,)}, "--std 0: must be above 0"),
        ({"channels": 0}, r"--channels 0: must be 1 \(grey\) or 3 \(RGB\)"),
        ({"resize": 9}, "--resize needs --image-size"),
        ({"size": (28, 28), "resize": 9}, "--resize 9: must be 28 to 4096 pixels, because --image-size 28x28 is"),
        ({"size": (0, 9)}, "--image-size 0x9: image sides must be 1 to 4096 pixels"),
    ],
)
def test_contradictory_options_are_rejected(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**options)  # type: ignore[arg-type]


def test_built_in_images_are_converted_to_the_requested_size_and_channels(digits_data: DataSet) -> None:
    data = registry.load("digits", Options(channels=3, size=(14, 20), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)))
    assert data.test_images.shape == (355, 3, 14, 20)
    expected = (
        Image.fromarray(digits_data.test_images[:][7, 0]).convert("RGB").resize((20, 14), Image.Resampling.BILINEAR)
    )
    assert np.array_equal(data.test_images[:][7], np.asarray(expected).transpose(2, 0, 1))
    assert data.mean_and_std() == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
