"""The options of `netkit train`."""

import csv
import json
from pathlib import Path

import pytest

from netkit.nets.training import checkpoint
from tests.support.commands import Netkit, run_netkit


def test_options_override_the_printed_and_saved_recipe(netkit: Netkit, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--batch-size", "256", "--lr", "0.05", "--ema", "0.5", "--precision", "fp32"]
    done = netkit("train", "--arch", "residual", "--data", "digits", "--seed", "3", "--deterministic", *options)
    assert done.returncode == 0, done.stderr
    _, card = checkpoint.load(tmp_path / "runs/residual/model.safetensors")
    overrides = {"epochs": 1, "batch_size": 256, "lr": 0.05, "ema": 0.5, "precision": "fp32"}
    assert {name: card.origin.recipe[name] for name in overrides} == overrides and card.origin.seed == 3
    arguments = json.loads((tmp_path / "runs/residual/run.json").read_text())
    assert arguments["deterministic"] is True and arguments["compiled"] is False
    line = next(
        line for line in done.stderr.splitlines() if line.startswith("training residual on digits (1,442 images")
    )
    for name, value in overrides.items():
        assert f"{name.replace('_', ' ')} {value}" in line


def test_half_an_epoch_trains_on_half_of_the_images(netkit: Netkit, tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--epochs", "1.5", "--batch-size", "103")
    done = netkit("train", *options)
    assert done.returncode == 0, done.stderr
    assert "epochs 1.5," in done.stderr
    with open(tmp_path / "runs/residual/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "14"), ("2", "21")]  # 1,442 and 721 images
    resumed = netkit("train", *options, "--resume")
    assert resumed.returncode == 0 and "this run is already complete" in resumed.stderr


def test_a_home_folder_that_is_not_writable_causes_no_warning(tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--recipe", "baseline", "--epochs", "0.1")
    done = run_netkit("train", *options, cwd=tmp_path, HOME="/proc/none", XDG_CONFIG_HOME="", XDG_CACHE_HOME="")
    assert done.returncode == 0, done.stderr
    assert "atplotlib" not in done.stderr and (tmp_path / "runs/residual/curves.png").exists()


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "inf"])
def test_an_invalid_number_of_epochs_prints_one_line(netkit: Netkit, epochs: str) -> None:
    done = netkit("train", "--data", "digits", f"--epochs={epochs}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"netkit: epochs must be above 0 and at most 100,000, not {float(epochs)}"]


@pytest.mark.slow
def test_a_compiled_step_reaches_the_same_accuracy(netkit: Netkit, tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--epochs", "3", "--precision", "fp32")
    accuracies = []
    for flags in ((), ("--compile",)):
        done = netkit("train", *options, *flags, "--json")
        assert done.returncode == 0, done.stderr
        accuracies.append(json.loads(done.stdout)["test_accuracy"])
    eager, compiled = accuracies
    assert compiled == pytest.approx(eager, abs=0.05)
    assert json.loads((tmp_path / "runs/residual/run.json").read_text())["compiled"] is True
