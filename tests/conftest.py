"""What tests share: MNIST if it can be had, and one tiny run and model, trained on the bundled digits."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from infer import model as models
from infer.model import Model
from infer.session import Session, open_session
from nets.card import ModelCard, Origin
from nets.data import digits, mnist
from nets.data.dataset import HeldDataSet
from nets.errors import DataError

NETKIT = Path(sys.executable).with_name("netkit")

Netkit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def mnist_data() -> HeldDataSet:
    """The real MNIST; tests that need it skip, and say why, where it cannot be had."""
    try:
        return mnist.load()
    except DataError as fault:
        pytest.skip(str(fault))


@pytest.fixture(scope="session")
def digits_data() -> HeldDataSet:
    return digits.load()


@pytest.fixture(scope="session")
def card() -> ModelCard:
    """A small card, of a residual net for 28x28 digits that was never trained."""
    origin = Origin("digits", "0" * 64, {"name": "fast", "epochs": 1, "lr": 0.1}, 0, 0.5, "0.1.0", "2.14.1")
    return ModelCard("residual", tuple("0123456789"), 1, 28, 28, (0.1307,), (0.3081,), origin)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run in it, runs/residual: trained on the digits by the command line, and exported."""
    folder = tmp_path_factory.mktemp("workplace")
    for arguments in (("train", "--arch", "residual", "--data", "digits", "--epochs", "2"), ("export",)):
        done = run_netkit(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def model(workplace: Path) -> Model:
    """The exported model of `workplace`."""
    return models.read(workplace / "runs/residual/model.onnx")


@pytest.fixture(scope="session")
def session(model: Model) -> Session:
    return open_session(model, device="cpu", threads=1)


@pytest.fixture
def netkit(tmp_path: Path) -> Netkit:
    """Run the installed command in an empty folder (or in `cwd`): netkit("infer", "a.png") -> the finished process."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, **environment: str) -> "subprocess.CompletedProcess[str]":
        return run_netkit(*arguments, cwd=cwd, **environment)

    return run


def run_netkit(*arguments: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [NETKIT, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
    )


def digits_in(folder: Path, data: HeldDataSet, *, count: int, files: int = 100) -> list[Path]:
    """`count` names of `files` pictures of digits."""
    folder.mkdir()
    paths = [folder / f"{index:06}.png" for index in range(count)]
    for index, path in enumerate(paths):
        if index < files:
            Image.fromarray(data.test_images[index, 0]).save(path)
        else:
            os.link(paths[index % files], path)
    return paths
