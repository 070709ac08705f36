"""`netkit train` as people run it: what its options change."""

import json
from pathlib import Path

import pytest
from conftest import Netkit

from nets.training import checkpoint


def test_options_change_the_recipe_that_is_printed_and_kept(netkit: Netkit, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--batch-size", "256", "--lr", "0.05", "--ema", "0.5", "--precision", "fp32"]
    done = netkit("train", "--arch", "residual", "--data", "digits", "--seed", "3", "--deterministic", *options)
    assert done.returncode == 0, done.stderr
    _, card = checkpoint.load(tmp_path / "runs/residual/model.safetensors")
    asked = {"epochs": 1, "batch_size": 256, "lr": 0.05, "ema": 0.5, "precision": "fp32"}
    assert {name: card.origin.recipe[name] for name in asked} == asked and card.origin.seed == 3
    arguments = json.loads((tmp_path / "runs/residual/run.json").read_text())
    assert arguments["deterministic"] is True and arguments["compiled"] is False
    line = next(
        line for line in done.stderr.splitlines() if line.startswith("training residual on digits (1,442 images")
    )
    for name, value in asked.items():
        assert f"{name.replace('_', ' ')} {value}" in line


@pytest.mark.slow
def test_a_compiled_step_trains_as_well(netkit: Netkit, tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--epochs", "3", "--precision", "fp32")
    found = []
    for more in ((), ("--compile",)):
        done = netkit("train", *options, *more, "--json")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["test_accuracy"])
    plain, compiled = found
    assert compiled == pytest.approx(plain, abs=0.05)
    assert json.loads((tmp_path / "runs/residual/run.json").read_text())["compiled"] is True
