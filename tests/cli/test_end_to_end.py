"""train, export, sample and infer on the real MNIST with every network; the accuracies agree."""

import csv
import re
from pathlib import Path

import pytest

from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import ARCHITECTURES
from tests.support.commands import Netkit


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_infer_on_mnist_has_the_accuracy_that_training_printed(
    netkit: Netkit, tmp_path: Path, mnist_data: ArrayDataSet, arch: str
) -> None:
    trained = netkit("train", "--arch", arch, "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    exported = netkit("export", "--arch", arch)
    assert exported.returncode == 0, exported.stderr
    assert (
        "same label as PyTorch for 10,000 of 10,000 test images; the largest error can change the label of 0 of them"
        in exported.stdout
    )
    assert netkit("sample", "images/").stdout == "wrote 10,000 images to images/\n"
    inferred = netkit("infer", "images/", "--out", "p.csv")
    assert inferred.returncode == 0, inferred.stderr

    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == len({row["path"] for row in rows}) == 10_000
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:  # the name of the folder is the label in MNIST
        _, label, name = row["path"].split("/")
        assert mnist_data.test_labels[int(Path(name).stem)] == int(label)
    correct = sum(row["label"] == row["path"].split("/")[1] for row in rows)
    printed = re.search(r"test accuracy ([\d.]+)%", trained.stdout)
    assert printed is not None
    assert float(printed[1]) == correct / 100  # percent of 10,000 images
    assert correct > 9_700  # one epoch of the fast recipe reached 98.5 % or more
