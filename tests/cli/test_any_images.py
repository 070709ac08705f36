"""People's own images and nets, from the command line: train, export, verify, infer; and the numbers agree."""

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

GUIDE = (Path(__file__).parents[2] / "docs/any-images.md").read_text()
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}
SHAPES = ("circle", "square", "triangle")


def draw(root: Path, count: int, *, side: int) -> None:
    """So many pictures of shapes in colours, on grounds of chance, in a folder for each of the nine kinds."""
    random = np.random.default_rng(0)
    for number in range(count):
        shape, colour = SHAPES[number % 3], list(COLOURS)[number // 3 % 3]
        image = Image.new("RGB", (side, side), tuple(random.integers(90, 200, 3).tolist()))
        radius = int(random.integers(side // 6, side // 3))
        x, y = random.integers(radius, side - radius, 2).tolist()
        ink = tuple(np.clip(np.array(COLOURS[colour]) + random.integers(-30, 30, 3), 0, 255).tolist())
        pen, box = ImageDraw.Draw(image), (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            pen.ellipse(box, fill=ink)
        elif shape == "square":
            pen.rectangle(box, fill=ink)
        else:
            pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=ink)
        path = root / f"{colour}-{shape}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def accuracy(printed: str) -> float:
    found = re.search(r"test accuracy ([\d.]+)%", printed)
    assert found, printed
    return float(found[1])


def done(netkit: Netkit, *arguments: str) -> str:
    """What the command printed; it must succeed."""
    finished = netkit(*arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_what_training_measured_is_what_infer_sees_in_the_same_files(netkit: Netkit, tmp_path: Path) -> None:
    draw(tmp_path / "shapes/train", 180, side=32)
    draw(tmp_path / "shapes/test", 90, side=40)
    how = ("--image-size", "24x28", "--resize", "30", "--epochs", "4")
    trained = accuracy(done(netkit, "train", "--arch", "residual", "--data", "shapes", *how))
    done(netkit, "export", "--arch", "residual")
    done(netkit, "infer", "shapes/test", "--out", "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    right = sum(row["label"] == row["path"].split("/")[-2] for row in rows)
    assert len(rows) == 90 and round(100 * right / 90, 2) == trained

    data = image_files.load(tmp_path / "shapes", Options(size=(24, 28), resize=30))
    card = onnx_file.read(tmp_path / "runs/residual/model.onnx").card
    assert card.origin.data_sha256 == data.sha256 and card.labels == data.labels
    decoder = Decoder(card.input)
    decoded = {decoder(str(path)).tobytes() for path in (tmp_path / "shapes/test").rglob("*.png")}
    assert decoded == {image.tobytes() for image in data.test_images[:]}


@pytest.mark.slow
def test_shapes_in_colours_are_learnt(netkit: Netkit, tmp_path: Path) -> None:
    draw(tmp_path / "shapes", 3000, side=64)
    assert accuracy(done(netkit, "train", "--arch", "residual", "--data", "shapes")) > 97
    done(netkit, "export", "--variants", "fp32,int8")
    for name in ("model.onnx", "model.int8.onnx"):
        done(netkit, "verify", f"runs/residual/{name}")
        said = netkit("infer", "shapes", "--out", "p.csv", "--model", f"runs/residual/{name}").stderr
        found = re.search(r"3,000 files; accuracy ([\d.]+)%", said)
        assert found and float(found[1]) > 97


def test_the_guides_own_net_goes_all_the_way(netkit: Netkit, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "mynets.py").write_text(program)
    commands = re.findall(r"^\$ netkit (.*mynets:.*)$", GUIDE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "export", "infer"]
    done(netkit, "sample", "images/", "--data", "digits")
    train, export, infer = ([*command.split()] for command in commands)
    trained = accuracy(done(netkit, *train))
    assert trained > 90
    assert "code outside netkit" in netkit("export", "--run", "runs/mynets-TwoLayers").stderr
    done(netkit, *export)
    done(netkit, "verify", "runs/mynets-TwoLayers/model.onnx")
    assert f"accuracy {trained:.2f}%" in netkit(*infer, "--out", "p.csv").stderr
    assert onnx_file.read(tmp_path / "runs/mynets-TwoLayers/model.onnx").card.arch == "mynets:TwoLayers"


@pytest.mark.slow
def test_training_goes_on_from_imported_weights(netkit: Netkit, tmp_path: Path, workplace: Path) -> None:
    torch.save(safetensors.torch.load_file(workplace / "runs/residual/model.safetensors"), tmp_path / "net.pth")
    assert "net.safetensors" in done(netkit, "import", "net.pth")
    short = ("train", "--arch", "residual", "--data", "digits", "--epochs", "0.3", "--lr", "0.005")
    fresh = accuracy(done(netkit, *short, "--out", "fresh"))
    tuned = accuracy(done(netkit, *short, "--out", "tuned", "--weights", "net.safetensors"))
    assert tuned > fresh + 20
    other = netkit(*short, "--out", "tuned", "--resume", "--weights", "tuned/model.safetensors")
    assert other.returncode == 2 and "weights sha256" in other.stderr
    for change in (("--image-size", "40"), ("--mean", "0.9", "--std", "0.1")):
        other = netkit(*short, "--out", "fresh", "--resume", *change)
        assert other.returncode == 2 and "this run was started with" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_torchvisions_nets_go_all_the_way(netkit: Netkit, tmp_path: Path, name: str) -> None:
    done(netkit, "sample", "images/", "--data", "digits")
    arch = f"torchvision/{name}"
    trained = accuracy(
        done(netkit, "train", "--arch", arch, "--data", "digits", "--image-size", "32", "--epochs", "0.5")
    )
    done(netkit, "export", "--arch", arch)
    done(netkit, "verify", f"runs/torchvision-{name}/model.onnx")
    assert f"accuracy {trained:.2f}%" in netkit("infer", "images/", "--arch", arch, "--out", "p.csv").stderr


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--arch", "torchvision/resnet19"], 2, "did you mean 'torchvision/resnet18'"),
        (["--arch", "resnet18"], 2, "did you mean 'torchvision/resnet18'"),
        (["--arch", "torchvision/inception_v3"], 2, "cannot take 28x28 images of 3 channels: .*the least.* 75x75"),
        (["--image-size", "big"], 2, "'big' is not a size: 64 means 64x64"),
        (["--mean", "a,b"], 2, "'a,b' is not a list of numbers separated by commas"),
        (["--mean", "0.5,0.5", "--std", "1,1"], 1, "a card has one mean and std a channel"),
        (["--weights", "none.safetensors"], 2, "none.safetensors: cannot be read: No such file"),
        (["--data", "."], 1, "no class folders here"),
    ],
)
def test_what_cannot_be_is_one_line(netkit: Netkit, options: list[str], code: int, told: str) -> None:
    finished = netkit("train", "--data", "digits", *options)
    assert finished.returncode == code, finished.stderr
    assert re.search(told, finished.stderr.splitlines()[-1]), finished.stderr
    assert "Traceback" not in finished.stderr


def test_json_tells_the_same(netkit: Netkit, tmp_path: Path) -> None:
    draw(tmp_path / "shapes", 90, side=28)
    told = json.loads(done(netkit, "train", "--arch", "residual", "--data", "shapes", "--epochs", "0.5", "--json"))
    assert 0 <= told["test_accuracy"] <= 1
