"""Which images a model is evaluated on, and their classes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.core.errors import DataError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data import image_files, labelled
from netkit.data.dataset import ArrayDataSet
from netkit.data.options import Options


@pytest.fixture
def images(tmp_path: Path, digits_data: ArrayDataSet) -> Path:
    """A folder with ten images of each of the digits 0 and 1."""
    folder = tmp_path / "images"
    for label in (0, 1):
        (folder / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(digits_data.train_labels == label)[:10].tolist():
            Image.fromarray(digits_data.train_images[index, 0]).save(folder / str(label) / f"{index:04}.png")
    return folder


def classes(data: labelled.LabelledImages) -> list[int]:
    return data.truth.tolist()


def test_the_test_images_of_a_data_set_are_loaded_unchanged(card: ModelCard, digits_data: ArrayDataSet) -> None:
    data = labelled.load("digits", card)
    assert data.name == "digits"
    assert isinstance(data.inputs, np.ndarray)
    assert (data.inputs[:, :, :, 0] == digits_data.test_images[:, 0]).all()
    assert (data.truth == digits_data.test_labels).all()


def test_classes_are_numbered_by_the_labels_of_the_card(card: ModelCard, digits_data: ArrayDataSet) -> None:
    reversed_card = replace(card, labels=tuple(reversed(card.labels)))
    assert (labelled.load("digits", reversed_card).truth == 9 - digits_data.test_labels).all()


def test_all_images_in_class_folders_are_test_images(card: ModelCard, images: Path) -> None:
    data = labelled.load(str(images), card)
    assert list(data.inputs) == sorted(map(str, images.rglob("*.png")))
    assert classes(data) == [0] * 10 + [1] * 10


def test_a_folder_may_contain_only_test_images(card: ModelCard, images: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    images.rename(tmp_path / "set/test")
    assert classes(labelled.load(str(tmp_path / "set"), card)) == [0] * 10 + [1] * 10


def test_the_models_own_data_set_is_identified_by_its_hash(card: ModelCard, digits_data: ArrayDataSet) -> None:
    digits_card = replace(card, origin=replace(card.origin, data_sha256=digits_data.sha256))
    assert len(labelled.load(None, digits_card).truth) == 355
    for name in ("digits", "scans"):  # a folder that is also called digits
        folder_card = replace(card, origin=replace(card.origin, data=name))
        with pytest.raises(UsageError, match=f"--data is required: the model was trained on '{name}'; pass labelled"):
            labelled.load(None, folder_card)


@pytest.mark.parametrize("name", ["test", "val"])
def test_only_the_test_images_are_used_if_there_are_also_training_images(
    card: ModelCard, images: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "split").mkdir()
    images.rename(tmp_path / "split/train")
    (tmp_path / "split" / name / "1").mkdir(parents=True)
    (tmp_path / "split" / name / "1/a.png").touch()  # no file is opened
    data = labelled.load(str(tmp_path / "split"), card)
    assert (list(data.inputs), classes(data)) == ([str(tmp_path / "split" / name / "1/a.png")], [1])


def test_validation_images_are_used_only_without_test_images_and_the_name_says_so(
    card: ModelCard, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    images.rename(folder / "Training")
    shutil.copytree(folder / "Training", folder / "Valid")
    data = labelled.load(str(folder), card)
    assert data.name == "split (validation images)" and {Path(str(path)).parts[-3] for path in data.inputs} == {"Valid"}
    own = replace(card, origin=replace(card.origin, data="split"))
    assert labelled.load(str(folder), own).name == "split (validation images, also used in training)"
    shutil.copytree(folder / "Training", folder / "Testing")
    tests = labelled.load(str(folder), own)
    assert tests.name == "split" and {Path(str(path)).parts[-3] for path in tests.inputs} == {"Testing"}


def test_a_data_set_is_read_as_in_training_if_it_has_the_same_name(card: ModelCard, images: Path) -> None:
    text = "file;digit\n" + "".join(f"{path};{path.parent.name}\n" for path in sorted(images.rglob("*.png")))
    for name in ("own.csv", "other.csv"):
        (images / name).write_text(text)
    reading = {"path_column": "file", "label_column": "digit"}
    own = replace(card, origin=replace(card.origin, data="own.csv", data_options=reading))
    assert classes(labelled.load(str(images / "own.csv"), own)) == [0] * 10 + [1] * 10
    assert classes(labelled.load(str(images / "other.csv"), own, reading)) == [0] * 10 + [1] * 10
    with pytest.raises(UsageError, match="no column 'path' or 'label'"):
        labelled.load(str(images / "other.csv"), own)


def test_folders_named_like_a_split_are_classes_if_the_model_has_such_a_label(
    card: ModelCard, images: Path, tmp_path: Path
) -> None:
    stations = replace(card, labels=("bus", "train"))
    (images / "0").rename(images / "bus")
    (images / "1").rename(images / "train")
    (images / "train/steam").mkdir()
    next((images / "train").glob("*.png")).rename(images / "train/steam/1.png")
    assert classes(labelled.load(str(images), stations)) == [0] * 10 + [1] * 10


def test_only_the_test_images_of_a_table_are_used(card: ModelCard, images: Path) -> None:
    names = [path.relative_to(images) for path in sorted(images.rglob("*.png"))]
    table = images / "table.csv"
    rows = [f"{name},{name.parent},{'test' if index % 5 == 0 else 'train'}" for index, name in enumerate(names)]
    table.write_text("\n".join(["path,label,split", *rows]) + "\n")
    data = labelled.load(str(table), card)
    assert list(data.inputs) == [str(images / name) for name in names[::5]]
    assert classes(data) == [0, 0, 1, 1]


def test_a_model_is_evaluated_on_the_images_that_training_kept_for_testing(
    card: ModelCard, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options = Options(1, (28, 28), val_split=0.3, seed=7)
    trained = image_files.load(images, options)
    origin = replace(card.origin, data_sha256=trained.sha256, val_split=0.3, seed=7)
    same_data_card = replace(card, origin=origin, labels=("0", "1"))
    data = labelled.load(str(images), same_data_card)
    pixels = np.stack([np.asarray(Image.open(path)) for path in data.inputs])
    assert isinstance(trained.test_images, np.ndarray)
    assert (pixels == trained.test_images[:, 0]).all()
    assert classes(data) == trained.test_labels.tolist()
    assert "evaluating on the 6 held-out images" in caplog.text
    other_data_card = replace(same_data_card, origin=replace(origin, data="images", data_sha256="0" * 64))
    assert len(labelled.load(str(images), other_data_card).inputs) == 20
    assert "differs from the data set that the model was trained on; evaluating on all images" in caplog.text
    (images / "1/unreadable.png").write_text("not an image")  # over 1 %: training rejects these files
    assert len(labelled.load(str(images), same_data_card).inputs) == 21


def test_a_class_that_the_card_does_not_list_is_an_error(card: ModelCard, images: Path) -> None:
    (images / "1").rename(images / "seven")
    with pytest.raises(
        DataError, match=r"images: the model does not know the class 'seven'; its labels .*'4', .*10 in total"
    ) as folder:
        labelled.load(str(images), card)
    assert str(folder.value).endswith("; rename the subfolders to these labels, or pass another data set with --data")
    table = images.parent / "all.csv"
    table.write_text("path,label\n1.png,seven\n2.png,eight\n")
    message = "the model does not know the classes 'eight', 'seven'; .* rename the labels in the table to these labels"
    with pytest.raises(DataError, match=message):
        labelled.load(str(table), card)


@pytest.mark.parametrize(
    ("name", "reading", "message"),
    [
        ("digits", {"label_column": "x"}, "--label-column is for a table (.csv or .tsv), and digits is not one"),
        ("digits", {"layout": "classes"}, "--layout is for a folder of images, and digits is not one"),
        ("images", {"path_column": "x"}, "--path-column is for a table (.csv or .tsv), and images is not one"),
        ("all.csv", {"layout": "classes"}, "--layout is for a folder of images, and all.csv is not one"),
    ],
)
def test_an_option_for_another_kind_of_data_set_is_rejected(
    card: ModelCard, images: Path, monkeypatch: pytest.MonkeyPatch, name: str, reading: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(images.parent)
    Path("all.csv").write_text("path,label\n")
    with pytest.raises(UsageError) as caught:
        labelled.load(name, card, reading)
    assert str(caught.value) == f"{message}; omit the option"


def test_a_source_that_is_not_a_data_set_is_rejected(card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        labelled.load("mnits", card)
    with pytest.raises(DataError, match="contains no subfolders"):
        labelled.load(str(tmp_path), card)
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"empty\.csv: contains no images"):
        labelled.load(str(tmp_path / "empty.csv"), card)
