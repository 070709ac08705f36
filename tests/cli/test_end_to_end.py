"""The main job on the real MNIST, for every net: train, export, sample, infer; and the numbers agree."""

import csv
import re
from pathlib import Path

import pytest

from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import ARCHITECTURES
from tests.support.commands import Netkit


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_accuracy_in_the_results_is_the_one_that_training_printed(
    netkit: Netkit, tmp_path: Path, mnist_data: ArrayDataSet, arch: str
) -> None:
    trained = netkit("train", "--arch", arch, "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    exported = netkit("export", "--arch", arch)
    assert exported.returncode == 0, exported.stderr
    assert "top-1 agreement 10,000 of 10,000; labels that the error could flip: 0" in exported.stdout
    assert netkit("sample", "images/").stdout == "images: 10,000 images\n"
    inferred = netkit("infer", "images/", "--out", "p.csv")
    assert inferred.returncode == 0, inferred.stderr

    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == len({row["path"] for row in rows}) == 10_000
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:  # the folder's name is the label that MNIST has for that index
        _, label, name = row["path"].split("/")
        assert mnist_data.test_labels[int(Path(name).stem)] == int(label)
    right = sum(row["label"] == row["path"].split("/")[1] for row in rows)
    printed = re.search(r"test accuracy ([\d.]+)%", trained.stdout)
    assert printed is not None
    assert float(printed[1]) == right / 100  # of 10,000, to the last image
    assert right > 9_700  # one epoch of the fast recipe gave 98.5 % or more
