"""Image files as a data set, against what Pillow reads from the same files; and what ails folders and tables."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import DataError, UsageError
from netkit.core.system import usable_cores
from netkit.data import image_folder, registry
from netkit.data.dataset import DataSet
from netkit.data.lazy import AHEAD, ImagesInFiles, batches
from netkit.data.options import Options

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an image of chance, its own for each name, under the folder `set`: write("cat/1.png")."""

    def one(name: str, *, size: tuple[int, int] = (6, 5), mode: str = "L") -> Path:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*size, 3) if mode == "RGB" else size
        seed = [*name.encode()]
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
        return path

    return one


@pytest.fixture
def two_classes(write: Write, tmp_path: Path) -> Path:
    """Ten images of cats and twenty of dogs, one of these a folder deeper."""
    for number in range(10):
        write(f"cat/{number}.png")
    for number in range(19):
        write(f"dog/{number}.PNG")
    write("dog/puppies/0.bmp")
    return tmp_path / "set"


def pairs(data: DataSet) -> Counter[tuple[bytes, str]]:
    """The pixels and labels of all images, for training and for testing."""
    found: Counter[tuple[bytes, str]] = Counter()
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        found.update((image.tobytes(), data.labels[label]) for image, label in zip(images[:], labels, strict=True))
    return found


def test_each_file_is_one_image_with_its_folder_as_label(two_classes: Path) -> None:
    data = image_folder.load(two_classes, Options())
    files = [path for path in two_classes.rglob("*") if path.is_file()]
    wanted = Counter((np.asarray(Image.open(path)).tobytes(), path.relative_to(two_classes).parts[0]) for path in files)
    assert pairs(data) == wanted
    assert data.labels == ("cat", "dog")
    assert data.train_images.shape[1:] == (1, 6, 5)
    assert (data.name, data.source) == ("set", str(two_classes))


def test_of_each_class_the_same_share_is_for_testing(two_classes: Path) -> None:
    data = image_folder.load(two_classes, Options(val_split=0.3))
    assert np.bincount(data.test_labels).tolist() == [3, 6]
    assert np.bincount(data.train_labels).tolist() == [7, 14]
    assert data.val_split == 0.3


def test_the_seed_alone_decides_which_images_are_for_testing(two_classes: Path) -> None:
    first, again, other = (image_folder.load(two_classes, Options(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.test_images[:], again.test_images[:]) and first.sha256 == again.sha256
    assert not np.array_equal(first.test_images[:], other.test_images[:]) and first.sha256 != other.sha256
    assert pairs(first) == pairs(other)


@pytest.mark.parametrize("tests", ["val", "test"])
def test_folders_for_training_and_testing_are_taken_as_they_are(write: Write, tmp_path: Path, tests: str) -> None:
    for name in ("train/a/1.png", "train/a/2.png", "train/b/1.png", f"{tests}/a/3.png", f"{tests}/b/2.png"):
        write(name)
    data = image_folder.load(tmp_path / "set", Options())
    assert np.bincount(data.train_labels).tolist() == [2, 1]
    assert data.val_split is None
    kept = {image.tobytes() for image in data.test_images[:]}
    assert kept == {
        np.asarray(Image.open(tmp_path / "set" / tests / name)).tobytes() for name in ("a/3.png", "b/2.png")
    }


def test_classes_are_mixed_so_that_the_first_images_stand_for_all(write: Write, tmp_path: Path) -> None:
    for number in range(60):
        write(f"{'ab'[number % 2]}/{number}.png")
    data = image_folder.load(tmp_path / "set", Options())
    assert set(data.train_labels[:10]) == {0, 1}


def test_a_table_gives_paths_labels_and_splits(write: Write, tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.png", "y/3.png", "4.png"):
        write(name)
    table = tmp_path / "set/digits.csv"
    table.write_text("label,path,split\nodd,x/1.png,train\neven,x/2.png,\nodd,y/3.png,val\neven,4.png,test\n")
    data = registry.load(str(table))
    assert data.labels == ("even", "odd")
    assert (len(data.train_labels), len(data.test_labels)) == (2, 2)
    wanted = {np.asarray(Image.open(tmp_path / "set" / name)).tobytes() for name in ("x/1.png", "x/2.png")}
    assert {image.tobytes() for image in data.train_images[:]} == wanted


def test_a_table_without_splits_is_split(write: Write, tmp_path: Path) -> None:
    rows = [f"{write(f'{n}.png').name},{'ab'[n % 2]}" for n in range(10)]
    table = tmp_path / "set/all.csv"
    table.write_text("\n".join(["path,label", *rows]))
    assert len(image_folder.load(table, Options(val_split=0.4)).test_labels) == 4


def test_one_image_in_colour_makes_all_of_them_rgb(two_classes: Path, write: Write) -> None:
    write("cat/colour.png", mode="RGB")
    assert image_folder.load(two_classes, Options()).train_images.shape[1] == 3
    assert image_folder.load(two_classes, Options(channels=1)).train_images.shape[1] == 1


def test_mixed_sizes_need_one_to_be_named(two_classes: Path, write: Write) -> None:
    write("cat/large.png", size=(12, 10))
    with pytest.raises(
        DataError, match=r"images of 2 sizes, 6x5 \(30\), 12x10 \(1\); make them alike with --image-size"
    ):
        image_folder.load(two_classes, Options())
    assert image_folder.load(two_classes, Options(size=(8, 7))).train_images.shape[1:] == (1, 8, 7)


def test_images_that_do_not_fit_into_memory_are_the_same_images(two_classes: Path) -> None:
    held, in_files = (image_folder.load(two_classes, Options(size=(7, 9)), memory=memory) for memory in (10**9, 0))
    assert isinstance(held.train_images, np.ndarray) and isinstance(in_files.train_images, ImagesInFiles)
    assert (held.sha256, held.mean_and_std()) == (in_files.sha256, in_files.mean_and_std())
    choices = [np.array([3, 1, 4]), np.array([1]), np.arange(12)] * 20
    for one, other in zip(batches(held.train_images, choices), batches(in_files.train_images, choices), strict=True):
        assert one.dtype == other.dtype == np.uint8 and np.array_equal(one, other)
    assert np.array_equal(held.test_images[:], in_files.test_images[:])


def test_no_more_is_decoded_ahead_than_a_few_batches(two_classes: Path) -> None:
    data = image_folder.load(two_classes, Options(), memory=0)
    asked: list[int] = []

    def choices() -> Iterator[NDArray[np.int64]]:
        for number in range(1000):
            asked.append(number)
            yield np.array([0])

    found = batches(data.train_images, choices())
    next(found)
    assert len(asked) == AHEAD * usable_cores() + 1


def test_a_file_that_vanishes_while_training_is_named(two_classes: Path) -> None:
    data = image_folder.load(two_classes, Options(), memory=0)
    for path in two_classes.rglob("*.PNG"):
        path.unlink()
    with pytest.raises(DataError, match=r"dog/.*PNG: no such file; it could be read when training began"):
        data.train_images[:]


def test_an_unreadable_image_is_named_and_left_out(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(120):
        write(f"{'ab'[number % 2]}/{number}.png")
    broken = tmp_path / "set/a/0.png"
    broken.write_bytes(broken.read_bytes()[:-20])
    with caplog.at_level(logging.INFO):
        data = image_folder.load(tmp_path / "set", Options())
    assert len(data.train_labels) + len(data.test_labels) == 119
    assert any(message.startswith(f"skipped: {broken}: ") for message in caplog.messages)


def test_more_than_one_unreadable_image_in_a_hundred_stops_the_run(write: Write, tmp_path: Path) -> None:
    for number in range(99):
        write(f"{'ab'[number % 2]}/{number}.png")
    (tmp_path / "set/a/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 99 images cannot be read, over 1 %, of which the first is .*a/0\.png"):
        image_folder.load(tmp_path / "set", Options())


def test_how_classes_differ_in_number_is_told(two_classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        image_folder.load(two_classes, Options())
    assert "2 classes, of 8 (cat) to 16 (dog) training images" in caplog.messages


def test_what_begins_with_a_dot_is_passed_over(two_classes: Path, write: Write) -> None:
    write(".thumbnails/1.png")
    write("cat/.1.png")
    assert sum(pairs(image_folder.load(two_classes, Options())).values()) == 30


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "no class folders here, and no files in MNIST's format"),
        (["only/1.png", "only/2.png"], "one class only, 'only'"),
        (["a/1.png", "b/notes.txt"], "b: no images in this class"),
        (["a/1.png", "a/2.png", "b/1.png"], "class 'b' has one image: none is left to test on"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"], "that nothing is to be learnt of: c"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(write: Write, tmp_path: Path, names: list[str], told: str) -> None:
    (tmp_path / "set").mkdir()
    for name in names:
        write(name) if name.endswith("png") else (tmp_path / "set" / name).parent.mkdir()
    with pytest.raises(DataError, match=told):
        registry.load(str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("file,class\n1.png,a\n", "line 2: a row has a path and a label"),
        ("path,label\n1.png,a\n2.png,\n", "line 3: a row has a path and a label"),
        ("path,label,split\n1.png,a,dev\n", "line 2: split is train, test or val, not 'dev'"),
        ("path,label\n", "no images for training"),
    ],
)
def test_a_table_that_lists_no_data_set_is_refused(tmp_path: Path, table: str, told: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table)
    with pytest.raises(DataError, match=told):
        registry.load(str(path))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"val_split": 0.0}, "--val-split lies between 0 and 1"),
        ({"mean": (0.5,)}, "--mean and --std: give both"),
        ({"resize": 9}, "--resize needs --image-size"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Options(**options)  # type: ignore[arg-type]


def test_built_in_images_become_what_is_asked_for(digits_data: DataSet) -> None:
    data = registry.load("digits", Options(channels=3, size=(14, 20), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)))
    assert data.test_images.shape == (355, 3, 14, 20)
    wanted = (
        Image.fromarray(digits_data.test_images[:][7, 0]).convert("RGB").resize((20, 14), Image.Resampling.BILINEAR)
    )
    assert np.array_equal(data.test_images[:][7], np.asarray(wanted).transpose(2, 0, 1))
    assert data.mean_and_std() == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
