"""What tests share: MNIST if it can be had, and one tiny run and model, trained on the bundled digits."""

import subprocess
from pathlib import Path

import pytest

from netkit.core.errors import DataError
from netkit.core.model_card import ModelCard, Origin
from netkit.data import digits, mnist
from netkit.data.dataset import ArrayDataSet
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.session import Session, open_session
from tests.support.commands import Netkit, run_netkit


@pytest.fixture(scope="session")
def mnist_data() -> ArrayDataSet:
    """The real MNIST; tests that need it skip, and say why, where it cannot be had."""
    try:
        return mnist.load()
    except DataError as fault:
        pytest.skip(str(fault))


@pytest.fixture(scope="session")
def digits_data() -> ArrayDataSet:
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
    return onnx_file.read(workplace / "runs/residual/model.onnx")


@pytest.fixture(scope="session")
def session(model: Model) -> Session:
    return open_session(model, device="cpu", threads=1)


@pytest.fixture
def netkit(tmp_path: Path) -> Netkit:
    """Run the installed command in an empty folder (or in `cwd`): netkit("infer", "a.png") -> the finished process."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, **environment: str) -> "subprocess.CompletedProcess[str]":
        return run_netkit(*arguments, cwd=cwd, **environment)

    return run
