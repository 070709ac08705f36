"""The true label of a file is the outermost folder named after a label, below the folder that the user passed."""

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from netkit.data.dataset import ArrayDataSet
from netkit.infer.output.folder_labels import folder_labels
from netkit.infer.pipeline.inputs import find_inputs
from tests.support.commands import Netkit

LABELS = ("cat", "dog")


@pytest.fixture(autouse=True)
def folder_called_dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder. It is called dog."""
    folder = tmp_path / "dog"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("argument", "path", "label"),
    [
        ("in", "in/cat/1.png", "cat"),
        ("in", "in/cat/dog/1.png", "cat"),
        ("in", "in/2021/cat/dog/1.png", "cat"),
        ("in/", "in/test/cat/more/1.png", "cat"),
        ("./in", "in/cat/dog/1.png", "cat"),
        ("in/cat", "in/cat/1.png", "cat"),
        ("in/cat", "in/cat/dog/1.png", "dog"),  # as with 'netkit evaluate --data in/cat'
        ("in/cat/2021", "in/cat/2021/1.png", "cat"),
        ("in", "in/cow/1.png", "dog"),  # the current folder
        (".", "1.png", "dog"),
        ("/", "/cow/1.png", None),
        ("/", "/cat/dog/1.png", "cat"),
        ("in/cat/dog/1.png", "in/cat/dog/1.png", "dog"),  # the file itself was passed
        ("list.csv", "in/cat/dog/1.png", "dog"),
        ("in/*", "in/cat/dog/1.png", "cat"),
        ("in/**/*.png", "in/cat/dog/1.png", "cat"),
        ("*/*/*/*.png", "in/cat/dog/1.png", "cat"),
        ("/in/c[au]t/*", "/in/cat/dog/1.png", "cat"),
        ("in/cat/*.png", "in/cat/1.png", "cat"),
        ("in/cat/1?.png", "in/cat/11.png", "cat"),
        ("s3://dog/in", "s3://dog/in/cat/dog/1.png", "cat"),
        ("s3://dog/in/", "s3://dog/in/1.png", "dog"),
        ("s3://cow/*/cat/*.png", "s3://cow/dog/cat/1.png", "dog"),
        ("s3://cow/in[1]", "s3://cow/in[1]/cat/1.png", "cat"),
        ("s3://cow/1.png", "s3://cow/1.png", None),  # a URL is not in the current folder
        ("memory://1.png", "memory://1.png", None),
        ("file:///in", "file:///in/cat/dog/1.png", "cat"),
        ("file:///my%20in", "file:///my in/cat/dog/1.png", "cat"),
        ("file:///my%20in/c%61t/dog/1.png", "file:///my%20in/c%61t/1.png", "cat"),
        ("zip://::file:///cat.zip", "zip://dog/cat/1.png::file:///cat.zip", "dog"),
        ("zip://*/*::s3://dog/all.zip", "zip://cat/dog/1.png::s3://dog/all.zip", "cat"),
        ("zip://dog::s3://a.zip", "zip://dog/cat/dog/1.png::s3://b.zip", "dog"),  # another archive
    ],
)
def test_a_label_is_the_outermost_folder_below_the_passed_one_or_else_the_nearest(
    argument: str, path: str, label: str | None
) -> None:
    assert folder_labels(LABELS, ["elsewhere", argument])(path) == label


def test_brackets_in_the_name_of_a_folder_are_not_a_pattern() -> None:
    for name in ("a[1]/cat/dog/1.png", "a[1]/cat/2.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert folder_labels(LABELS, ["a[1]/cat"])("a[1]/cat/dog/1.png") == "dog"
    assert folder_labels(LABELS, ["a[1]/cat/dog/1.png"])("a[1]/cat/dog/1.png") == "dog"
    assert folder_labels(LABELS, ["a[1]"])("a[1]/cat/dog/1.png") == "cat"


def test_a_path_relative_to_the_current_folder_is_in_a_folder_passed_with_its_absolute_path() -> None:
    assert folder_labels(LABELS, [os.path.abspath("in")])("in/cat/dog/1.png") == "cat"


@pytest.mark.parametrize("root", ["photos/test", "photos"], ids=["splits", "classes"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_infer_and_evaluate_give_the_same_accuracy_on_the_same_images(
    netkit: Netkit, tmp_path: Path, workspace: Path, digits_data: ArrayDataSet, root: str, nested: bool
) -> None:
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    for number, label in enumerate(digits_data.test_labels[:80].tolist()):
        folder = tmp_path / root / str(label if number % 4 else 3)  # some images are in another class
        path = folder / (str((label + 1) % 10) if nested else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_data.test_images[number][0]).save(path)
    if root != "photos":
        shutil.copytree(tmp_path / root / "3", tmp_path / "photos/train/3")
    evaluated = netkit("evaluate", "runs/residual/model.onnx", "--data", "photos").stdout
    accuracy = re.search(r"80 images, accuracy ([\d.]+%)", evaluated)
    assert accuracy and 50 < float(accuracy[1].rstrip("%")) < 90, evaluated
    correct = round(float(accuracy[1].rstrip("%")) * 80 / 100)
    expected = f"accuracy {accuracy[1]} ({correct} correct of the 80 images whose folder is named after a label)"
    for argument in (root, str(tmp_path / root), f"{root}/*", f"{root}/**/*.png", f"file://{tmp_path}/{root}"):
        done = netkit("infer", argument, "--out", "rows.csv")
        assert done.returncode == 0 and expected in done.stderr, done.stderr
    assert expected in netkit("infer", argument, "--out", "rows.csv", "--resume").stderr
    if root != "photos":
        both = netkit("infer", "photos", "--out", "all.csv").stderr
        count = len(list(find_inputs([str(tmp_path / "photos")])))
        assert f" correct of the {count} images whose folder is named after a label" in both


def test_infer_judges_files_of_a_table_by_their_folders_and_evaluate_by_the_labels_in_the_table(
    netkit: Netkit, tmp_path: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    rows = ["path,label"]
    for number, label in enumerate(digits_data.test_labels[:40].tolist()):
        path = tmp_path / f"photos/{(label + 1) % 10}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_data.test_images[number][0]).save(path)
        rows.append(f"{path},{label}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    evaluated = netkit("evaluate", "runs/residual/model.onnx", "--data", "photos.csv").stdout
    inferred = netkit("infer", "photos.csv", "--out", "rows.csv").stderr
    by_table, by_folder = (
        float(match[1])
        for match in (
            re.search(r"accuracy ([\d.]+)%", evaluated),
            re.search(r"accuracy ([\d.]+)% \(\d+ correct of the 40 ", inferred),
        )
        if match
    )
    assert by_folder < 20 < 80 < by_table
