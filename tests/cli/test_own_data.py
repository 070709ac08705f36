"""Other people's folders and tables, from the command line: what is printed, and where the hints lead."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Netkit

TRAIN = ("train", "--arch", "residual", "--epochs", "2", "--no-export-check")


def write_colors(root: Path, *, count: int, first: int = 0) -> None:
    """Write noisy images of two colors into the folders red/2021 and blue in `root`."""
    for number in range(first, first + count):
        for channel, folder in ((0, "red/2021"), (2, "blue")):
            pixels = np.random.default_rng([number, channel]).integers(0, 90, (28, 28, 3), np.uint8)
            pixels[..., channel] += 150
            path = root / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def test_accuracy_of_a_folder_with_a_validation_split_is_reported_as_what_it_is(netkit: Netkit, tmp_path: Path) -> None:
    write_colors(tmp_path / "colors/Training", count=12)
    write_colors(tmp_path / "colors/valid", count=5, first=100)
    (tmp_path / "colors/Training/blue/new.HEIC").touch()
    (tmp_path / "colors/Training/blue/._0.png").write_bytes(b"resource fork")
    trained = netkit(*TRAIN, "--data", "colors")
    assert trained.returncode == 0, trained.stderr
    assert "test accuracy 100.00% (on the validation images: there are no test images)" in trained.stdout
    assert "1 .heic file (format not supported)" in trained.stderr and "1 hidden image file" in trained.stderr
    assert "24 training images (Training/), 10 validation and test images (valid/)" in trained.stderr
    assert "2 classes: blue, red" in trained.stderr
    with open(tmp_path / "runs/residual/metrics.csv") as file:
        assert [row["val_accuracy"] for row in csv.DictReader(file)][-1] == "1.0"

    exported = netkit("export")
    hint = exported.stderr.splitlines()[-1]
    assert hint == f"next: netkit evaluate runs/residual/model.onnx --data {tmp_path}/colors"
    evaluated = netkit(*hint.split()[2:])
    assert "colors (validation images, also used in training): 10 images, accuracy 100.00%" in evaluated.stdout

    inferred = netkit("infer", "colors", "--out", "p.csv")
    assert inferred.returncode == 0, inferred.stderr
    assert "; accuracy 100.00% (34 correct of the 34 images whose folder is named after a label)" in inferred.stderr
    assert "may include training images, because the model was trained on a data set called colors" in inferred.stderr
    assert "training images" not in netkit("infer", "colors/valid", "--out", "p.csv").stderr


def test_train_export_evaluate_and_infer_read_the_same_table(netkit: Netkit, tmp_path: Path) -> None:
    write_colors(tmp_path / "images", count=12)
    paths = sorted((tmp_path / "images").rglob("*.png"))
    urls = [path.as_uri() if index % 2 else path.relative_to(tmp_path) for index, path in enumerate(paths)]
    rows = [f"{url}\t{path.parts[-2 if 'blue' in path.parts else -3]}" for url, path in zip(urls, paths, strict=True)]
    (tmp_path / "all.csv").write_text("\n".join(["File\tColor", *rows]), encoding="utf-16")
    columns = ("--path-column", "file", "--label-column", "color")
    assert "choose with --path-column and --label-column" in netkit(*TRAIN, "--data", "all.csv").stderr
    trained = netkit(*TRAIN, "--data", "all.csv", *columns)
    assert trained.returncode == 0, trained.stderr
    assert netkit("export").returncode == 0
    evaluated = netkit("evaluate", "runs/residual/model.onnx", "--data", "all.csv", "--json")
    assert json.loads(evaluated.stdout)["images"] == 4  # those that were held out
    assert netkit("infer", "all.csv", "--path-column", "file", "--out", "p.csv").returncode == 0
    with open(tmp_path / "p.csv") as file:
        assert [row["path"] for row in csv.DictReader(file)] == list(map(str, urls))


def test_the_layout_of_the_training_is_that_of_export_and_evaluate(netkit: Netkit, tmp_path: Path) -> None:
    write_colors(tmp_path / "things/train", count=5)
    write_colors(tmp_path / "things/other", count=5, first=50)
    unclear = netkit(*TRAIN, "--data", "things")
    assert unclear.returncode == 1 and "--layout splits" in unclear.stderr and "--layout classes" in unclear.stderr
    assert netkit(*TRAIN, "--data", "things", "--layout", "classes").returncode == 0
    assert netkit("export").returncode == 0
    evaluated = netkit("evaluate", "runs/residual/model.onnx", "--data", "things", "--json")
    assert [row["label"] for row in json.loads(evaluated.stdout)["classes"]] == ["other", "train"]
    assert json.loads(evaluated.stdout)["images"] == 4


@pytest.mark.parametrize("label", ["../../escaped", ".."])
def test_a_sample_does_not_leave_its_folder(netkit: Netkit, tmp_path: Path, label: str) -> None:
    write_colors(tmp_path / "images", count=2)
    rows = [f"images/blue/{n}.png,{label}\nimages/red/2021/{n}.png,red" for n in range(2)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]))
    done = netkit("sample", "deep/er/out", "--data", "all.csv")
    assert done.returncode == 2 and "cannot be the name of a class folder" in done.stderr
    assert not (tmp_path / "deep").exists()
