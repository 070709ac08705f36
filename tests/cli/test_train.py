"""The options of `netkit train`."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

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
    line = next(line for line in done.stderr.splitlines() if line.startswith("training residual on digits, on "))
    values = "epochs 1, batch size 256, learning rate 0.05, EMA 0.5, fp32, augmentation digits (recipe fast)"
    assert line.endswith(f": 1,442 images, {values}")


def test_half_an_epoch_trains_on_half_of_the_images(netkit: Netkit, tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--epochs", "1.5", "--batch-size", "103", "--no-export-check")
    done = netkit("train", *options)
    assert done.returncode == 0, done.stderr
    assert "epochs 1.5," in done.stderr
    with open(tmp_path / "runs/residual/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "14"), ("2", "21")]  # 1,442 and 721 images
    resumed = netkit("train", *options, "--resume")
    assert resumed.returncode == 0 and "this run is already complete" in resumed.stderr


def test_a_home_folder_that_is_not_writable_or_a_missing_plot_backend_causes_no_warning(tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--recipe", "baseline", "--epochs", "0.1", "--no-export-check")
    environment = {"HOME": "/proc/none", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLBACKEND": "missing"}
    done = run_netkit("train", *options, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "atplotlib" not in done.stderr and (tmp_path / "runs/residual/curves.png").exists()


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "inf"])
def test_an_invalid_number_of_epochs_prints_one_line(netkit: Netkit, epochs: str) -> None:
    done = netkit("train", "--data", "digits", f"--epochs={epochs}")
    limit = "a number" if epochs == "nan" else "above 0 and at most 100,000"
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"netkit: --epochs {epochs}: must be {limit}"]


@pytest.mark.slow
def test_a_compiled_step_reaches_the_same_accuracy(netkit: Netkit, tmp_path: Path) -> None:
    options = ("--arch", "residual", "--data", "digits", "--epochs", "3", "--precision", "fp32", "--no-export-check")
    accuracies = []
    for flags in ((), ("--compile",)):
        done = netkit("train", *options, *flags, "--json")
        assert done.returncode == 0, done.stderr
        accuracies.append(json.loads(done.stdout)["test_accuracy"])
    eager, compiled = accuracies
    assert compiled == pytest.approx(eager, abs=0.05)
    assert json.loads((tmp_path / "runs/residual/run.json").read_text())["compiled"] is True


def test_a_log_has_few_lines_for_many_epochs_and_always_the_last(netkit: Netkit) -> None:
    options = ("--arch", "residual", "--data", "digits", "--epochs", "32", "--batch-size", "1442", "--no-export-check")
    done = netkit("train", *options)
    assert done.returncode == 0, done.stderr
    epochs = [int(epoch) for epoch in re.findall(r"^epoch (\d+): ", done.stderr, re.MULTILINE)]
    assert epochs == [*range(1, 11), 20, 30, 32]


def write_noise(folder: Path, *, mode: str, count: int = 6) -> None:
    """Write `count` images of random pixels for each of two classes."""
    rng = np.random.default_rng(0)
    for index in range(2 * count):
        path = folder / ("even", "odd")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).convert("RGB").save(path)


@pytest.mark.parametrize(
    ("mode", "options", "augmented"),
    [
        ("RGB", (), {"flip", "crop", "jitter"}),
        ("L", (), {"translate", "degrees", "scale", "shear"}),  # grey images in RGB files
        ("RGB", ("--augment", "digits"), {"translate", "degrees", "scale", "shear"}),
        ("RGB", ("--augment", "none"), set()),
        ("RGB", ("--recipe", "baseline"), set()),
        ("L", ("--recipe", "baseline", "--augment", "photos"), {"flip", "crop", "jitter"}),
    ],
)
def test_photos_are_augmented_unlike_grey_images(
    netkit: Netkit, tmp_path: Path, mode: str, options: tuple[str, ...], augmented: set[str]
) -> None:
    write_noise(tmp_path / "noise", mode=mode)
    command = (
        "train",
        "--arch",
        "residual",
        "--data",
        "noise",
        "--channels",
        "3",
        "--epochs",
        "1",
        "--no-export-check",
    )
    done = netkit(*command, *options)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "runs/residual/run.json").read_text())["recipe"]
    names = ("translate", "degrees", "scale", "shear", "crop", "flip", "jitter")
    assert {name for name in names if recipe[name]} == augmented
    resumed = netkit(*command, "--resume")
    assert (resumed.returncode == 0) == (not options)


def test_a_head_can_be_trained_on_the_frozen_weights_of_another_run(netkit: Netkit, tmp_path: Path) -> None:
    write_noise(tmp_path / "noise", mode="RGB")
    options = ("--epochs", "2", "--class-weights", "balanced", "--no-export-check")
    command = ("train", "--arch", "residual", "--data", "noise", *options)
    assert netkit(*command, "--out", "first").returncode == 0
    done = netkit(*command, "--out", "second", "--freeze", "--weights", "first/model.safetensors")
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {"linear.weight", "linear.bias"}
    recipe = json.loads((tmp_path / "second/run.json").read_text())["recipe"]
    assert (recipe["freeze"], recipe["balanced"]) == (True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--freeze",), "--freeze trains the last layer only; pass the weights of the other layers with --weights"),
        (("--patience", "3"), "--patience 3 needs validation images, and digits has none; add a folder val/ beside"),
        (("--augment", "photo"), "unknown augmentation 'photo': did you mean 'photos'?"),
        (("--recipe", "slow"), "unknown recipe 'slow': known: baseline, fast"),
        (("--channels", "0"), "--channels 0: must be 1 (grey) or 3 (RGB)"),
        (("--image-size", "28x"), "--image-size: '28x' is not an image size"),
        (
            ("--mean", "0.5,0.5", "--std", "1,1"),
            "--mean and --std: pass one number per channel of the images (1), not 2",
        ),
        (("--class-weights", "balance"), "unknown class weights 'balance': did you mean 'balanced'?"),
    ],
)
def test_options_that_cannot_be_used_end_with_an_error_message(
    netkit: Netkit, options: tuple[str, ...], message: str
) -> None:
    done = netkit("train", "--data", "digits", *options)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


def test_few_images_get_100_epochs_and_the_reason_is_printed(netkit: Netkit, tmp_path: Path) -> None:
    write_noise(tmp_path / "noise", mode="L", count=5)
    done = netkit("train", "--arch", "residual", "--data", "noise", "--no-export-check")
    assert done.returncode == 0, done.stderr
    assert "8 training images: training 100 epochs (100 steps), because the recipe's 8 epochs have only 8 steps (" in (
        done.stderr
    )
    assert done.stderr.count("from epoch 11 on, every 10th epoch is printed") == 1
    assert done.stderr.count(" on, every ") == 1
    assert done.stderr.count("\nepoch ") == 19  # 1 to 10, 20, 30, ..., 100
    assert "training images:" not in netkit("train", "--data", "noise", "--epochs", "1", "--no-export-check").stderr
