"""Which images a model is judged on, and what class each has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.core.errors import DataError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data import image_folder, labelled
from netkit.data.dataset import HeldDataSet
from netkit.data.options import Options


@pytest.fixture
def images(tmp_path: Path, digits_data: HeldDataSet) -> Path:
    """Ten pictures of each of the digits 0 and 1."""
    top = tmp_path / "images"
    for label in (0, 1):
        (top / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(digits_data.train_labels == label)[:10].tolist():
            Image.fromarray(digits_data.train_images[index, 0]).save(top / str(label) / f"{index:04}.png")
    return top


def truths(found: labelled.Labelled) -> list[int]:
    return found.truth.tolist()


def test_the_tests_of_a_data_set_come_as_they_are(card: ModelCard, digits_data: HeldDataSet) -> None:
    found = labelled.load("digits", card)
    assert found.name == "digits"
    assert isinstance(found.inputs, np.ndarray)
    assert (found.inputs[:, :, :, 0] == digits_data.test_images[:, 0]).all()
    assert (found.truth == digits_data.test_labels).all()


def test_classes_are_numbered_as_the_card_has_them(card: ModelCard, digits_data: HeldDataSet) -> None:
    reversed_card = replace(card, labels=tuple(reversed(card.labels)))
    assert (labelled.load("digits", reversed_card).truth == 9 - digits_data.test_labels).all()


def test_all_images_of_class_folders_are_for_testing(card: ModelCard, images: Path) -> None:
    found = labelled.load(str(images), card)
    assert list(found.inputs) == sorted(map(str, images.rglob("*.png")))
    assert truths(found) == [0] * 10 + [1] * 10


def test_tests_alone_are_found_too(card: ModelCard, images: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    images.rename(tmp_path / "alone/test")
    assert truths(labelled.load(str(tmp_path / "alone"), card)) == [0] * 10 + [1] * 10


def test_a_models_own_data_set_is_known_by_its_hash(card: ModelCard, digits_data: HeldDataSet) -> None:
    mine = replace(card, origin=replace(card.origin, data_sha256=digits_data.sha256))
    assert len(labelled.load(None, mine).truth) == 355
    for name in ("digits", "scans"):  # a folder that was called digits
        another = replace(card, origin=replace(card.origin, data=name))
        with pytest.raises(UsageError, match=f"trained on images in '{name}'; say where they lie with --data"):
            labelled.load(None, another)


@pytest.mark.parametrize("name", ["test", "val"])
def test_where_there_are_tests_only_they_are_taken(card: ModelCard, images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "split").mkdir()
    images.rename(tmp_path / "split/train")
    (tmp_path / "split" / name / "1").mkdir(parents=True)
    (tmp_path / "split" / name / "1/a.png").touch()  # no file is opened
    found = labelled.load(str(tmp_path / "split"), card)
    assert (list(found.inputs), truths(found)) == ([str(tmp_path / "split" / name / "1/a.png")], [1])


def test_a_table_gives_its_tests(card: ModelCard, images: Path) -> None:
    names = [path.relative_to(images) for path in sorted(images.rglob("*.png"))]
    table = images / "table.csv"
    rows = [f"{name},{name.parent},{'test' if at % 5 == 0 else 'train'}" for at, name in enumerate(names)]
    table.write_text("\n".join(["path,label,split", *rows]) + "\n")
    found = labelled.load(str(table), card)
    assert list(found.inputs) == [str(images / name) for name in names[::5]]
    assert truths(found) == [0, 0, 1, 1]


def test_of_what_a_model_was_trained_on_it_gets_what_was_kept_for_testing(
    card: ModelCard, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options = Options(1, (28, 28), val_split=0.3, seed=7)
    trained = image_folder.load(images, options)
    origin = replace(card.origin, data_sha256=trained.sha256, val_split=0.3, seed=7)
    mine = replace(card, origin=origin, labels=("0", "1"))
    found = labelled.load(str(images), mine)
    pictures = np.stack([np.asarray(Image.open(path)) for path in found.inputs])
    assert isinstance(trained.test_images, np.ndarray)
    assert (pictures == trained.test_images[:, 0]).all()
    assert truths(found) == trained.test_labels.tolist()
    assert "the model was trained on it; its tests are the 6 kept then" in caplog.text
    another = replace(mine, origin=replace(origin, data="images", data_sha256="0" * 64))
    assert len(labelled.load(str(images), another).inputs) == 20
    assert "not quite what the model was trained on: all is taken, what it learnt from, too" in caplog.text
    (images / "1/unreadable.png").write_text("no picture")  # over 1 %: training would have refused these
    assert len(labelled.load(str(images), mine).inputs) == 21


def test_a_class_that_the_model_does_not_know_is_named(card: ModelCard, images: Path) -> None:
    (images / "1").rename(images / "seven")
    with pytest.raises(DataError, match=r"images: classes that the model has no label for: 'seven'; its labels: "):
        labelled.load(str(images), card)


def test_what_is_no_data_set_is_refused(card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        labelled.load("mnits", card)
    with pytest.raises(DataError, match="no class folders here"):
        labelled.load(str(tmp_path), card)
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"empty\.csv: no images there"):
        labelled.load(str(tmp_path / "empty.csv"), card)
