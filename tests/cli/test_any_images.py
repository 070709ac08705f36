"""train, export, verify and infer on users' own images and networks, with consistent accuracies."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, ImageDraw

from netkit.data import image_files
from netkit.data.options import Options
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file
from tests.support.commands import Netkit

GUIDE = (Path(__file__).parents[2] / "docs/networks.md").read_text()
COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}
SHAPES = ("circle", "square", "triangle")


def write_shapes(root: Path, count: int, *, side: int) -> None:
    """Write `count` images of colored shapes on random backgrounds, in one folder for each of the nine classes."""
    rng = np.random.default_rng(0)
    for index in range(count):
        shape, color = SHAPES[index % 3], list(COLORS)[index // 3 % 3]
        image = Image.new("RGB", (side, side), tuple(rng.integers(90, 200, 3).tolist()))
        radius = int(rng.integers(side // 6, side // 3))
        x, y = rng.integers(radius, side - radius, 2).tolist()
        fill = tuple(np.clip(np.array(COLORS[color]) + rng.integers(-30, 30, 3), 0, 255).tolist())
        canvas, box = ImageDraw.Draw(image), (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            canvas.ellipse(box, fill=fill)
        elif shape == "square":
            canvas.rectangle(box, fill=fill)
        else:
            canvas.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
        path = root / f"{color}-{shape}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def accuracy(stdout: str) -> float:
    match = re.search(r"test accuracy ([\d.]+)%", stdout)
    assert match, stdout
    return float(match[1])


def run_ok(netkit: Netkit, *arguments: str) -> str:
    """Run a command that must succeed; return its stdout."""
    done = netkit(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_infer_has_the_accuracy_that_training_printed_on_the_same_files(netkit: Netkit, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes/train", 180, side=32)
    write_shapes(tmp_path / "shapes/test", 90, side=40)
    options = ("--image-size", "24x28", "--resize", "30", "--epochs", "4", "--no-export-check")
    trained_accuracy = accuracy(run_ok(netkit, "train", "--arch", "residual", "--data", "shapes", *options))
    run_ok(netkit, "export", "--arch", "residual")
    run_ok(netkit, "infer", "shapes/test", "--out", "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    correct = sum(row["label"] == row["path"].split("/")[-2] for row in rows)
    assert len(rows) == 90 and round(100 * correct / 90, 2) == trained_accuracy

    data = image_files.load(tmp_path / "shapes", Options(size=(24, 28), resize=30))
    card = onnx_file.read(tmp_path / "runs/residual/model.onnx").card
    assert card.origin.data_sha256 == data.sha256 and card.labels == data.labels
    decoder = Decoder(card.input)
    decoded = {decoder(str(path)).tobytes() for path in (tmp_path / "shapes/test").rglob("*.png")}
    assert decoded == {image.tobytes() for image in data.test_images[:]}


@pytest.mark.slow
def test_training_learns_colored_shapes(netkit: Netkit, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", 3000, side=64)
    assert accuracy(run_ok(netkit, "train", "--arch", "residual", "--data", "shapes")) > 97
    run_ok(netkit, "export", "--variants", "fp32,int8")
    for name in ("model.onnx", "model.int8.onnx"):
        run_ok(netkit, "verify", f"runs/residual/{name}")
        stderr = netkit("infer", "shapes", "--out", "p.csv", "--model", f"runs/residual/{name}").stderr
        match = re.search(r"3,000 files in .*; accuracy ([\d.]+)%", stderr)
        assert match and float(match[1]) > 97


def test_the_network_in_the_guide_can_be_trained_exported_and_run(netkit: Netkit, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "mynets.py").write_text(program)
    commands = re.findall(r"^\$ netkit (.*mynets:.*)$", GUIDE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "export", "infer"]
    run_ok(netkit, "sample", "images/", "--data", "digits")
    train, export, infer = ([*command.split()] for command in commands)
    trained_accuracy = accuracy(run_ok(netkit, *train))
    assert trained_accuracy > 90
    assert "is not part of netkit; to run its code" in netkit("export", "--run", "runs/mynets-TwoLayers").stderr
    run_ok(netkit, *export)
    run_ok(netkit, "verify", "runs/mynets-TwoLayers/model.onnx")
    assert f"accuracy {trained_accuracy:.2f}%" in netkit(*infer, "--out", "p.csv").stderr
    assert onnx_file.read(tmp_path / "runs/mynets-TwoLayers/model.onnx").card.arch == "mynets:TwoLayers"


@pytest.mark.slow
def test_training_starts_from_imported_weights(netkit: Netkit, tmp_path: Path, workspace: Path) -> None:
    torch.save(safetensors.torch.load_file(workspace / "runs/residual/model.safetensors"), tmp_path / "net.pth")
    assert "net.safetensors" in run_ok(netkit, "import", "net.pth")
    short = ("train", "--arch", "residual", "--data", "digits", "--epochs", "0.3", "--lr", "0.005", "--no-export-check")
    fresh = accuracy(run_ok(netkit, *short, "--out", "fresh"))
    tuned = accuracy(run_ok(netkit, *short, "--out", "tuned", "--weights", "net.safetensors"))
    assert tuned > fresh + 20
    other = netkit(*short, "--out", "tuned", "--resume", "--weights", "tuned/model.safetensors")
    assert other.returncode == 2 and "--weights FILE with SHA-256" in other.stderr
    for change in (("--image-size", "40"), ("--mean", "0.9", "--std", "0.1")):
        other = netkit(*short, "--out", "fresh", "--resume", *change)
        assert other.returncode == 2 and "this run was started with" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_torchvision_networks_can_be_trained_exported_and_run(netkit: Netkit, tmp_path: Path, name: str) -> None:
    run_ok(netkit, "sample", "images/", "--data", "digits")
    arch = f"torchvision/{name}"
    trained_accuracy = accuracy(
        run_ok(netkit, "train", "--arch", arch, "--data", "digits", "--image-size", "32", "--epochs", "0.5")
    )
    run_ok(netkit, "export", "--arch", arch)
    run_ok(netkit, "verify", f"runs/torchvision-{name}/model.onnx")
    assert f"accuracy {trained_accuracy:.2f}%" in netkit("infer", "images/", "--arch", arch, "--out", "p.csv").stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--arch", "torchvision/resnet19"], 2, "did you mean torchvision/resnet18, "),
        (["--arch", "resnet18"], 2, "did you mean 'torchvision/resnet18'"),
        (
            ["--arch", "torchvision/inception_v3"],
            2,
            "cannot take 28x28 images with 3 channels; the smallest size is --image-size 75",
        ),
        (["--image-size", "big"], 2, "'big' is not an image size; pass N or HEIGHTxWIDTH"),
        (["--mean", "a,b"], 2, "'a,b' is not a comma-separated list of numbers"),
        (
            ["--weights", "none.safetensors"],
            2,
            "none.safetensors: no such file; pass weights of 'netkit train' or 'netkit import'",
        ),
        (["--data", "."], 1, "contains no subfolders"),
    ],
)
def test_invalid_options_end_with_an_error_message(netkit: Netkit, options: list[str], code: int, message: str) -> None:
    done = netkit("train", "--data", "digits", *options)
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr


def test_train_prints_its_test_accuracy_as_json(netkit: Netkit, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", 90, side=28)
    stdout = run_ok(
        netkit, "train", "--arch", "residual", "--data", "shapes", "--epochs", "0.5", "--no-export-check", "--json"
    )
    assert 0 <= json.loads(stdout)["test_accuracy"] <= 1


def test_export_and_evaluate_skip_the_large_images_that_training_skipped(netkit: Netkit, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", 180, side=28)
    Image.new("RGB", (60, 60)).save(tmp_path / "shapes/red-circle/large.png")
    options = (
        "--image-size",
        "28",
        "--max-pixels",
        "3000",
        "--max-bytes",
        "100000",
        "--epochs",
        "1",
        "--no-export-check",
    )
    done = netkit("train", "--arch", "residual", "--data", "shapes", *options)
    assert done.returncode == 0
    assert "large.png: 60x60 pixels = 3,600, over the limit of 3,000; raise --max-pixels" in done.stderr
    run_ok(netkit, "export", "--arch", "residual")  # loads the same images again, and compares their hash
    card = onnx_file.read(tmp_path / "runs/residual/model.onnx").card
    assert (card.origin.max_pixels, card.origin.max_bytes, card.input.draft) == (3000, 100_000, True)
    done = netkit("evaluate", "runs/residual/model.onnx", "--data", "shapes")
    assert "evaluating on the 36 held-out images" in done.stderr
