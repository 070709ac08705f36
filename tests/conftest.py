"""Shared fixtures: MNIST if it is available, and one small run and model trained on the bundled digits."""

import fcntl
import shutil
from functools import partial
from pathlib import Path

import pytest

import netkit
from netkit.core.errors import DataError
from netkit.core.model_card import ModelCard, Origin
from netkit.data import digits, mnist
from netkit.data.dataset import ArrayDataSet
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.session import Session, open_session
from tests.support.commands import Netkit, call_netkit


@pytest.fixture(scope="session")
def mnist_data() -> ArrayDataSet:
    """The real MNIST. Tests that use it are skipped, with the reason, if it cannot be loaded."""
    try:
        return mnist.load()
    except DataError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def digits_data() -> ArrayDataSet:
    return digits.load()


@pytest.fixture(scope="session")
def card() -> ModelCard:
    """The model card of an untrained residual network for 28x28 digits."""
    origin = Origin("digits", "0" * 64, {"name": "fast", "epochs": 1, "lr": 0.1}, 0, 0.5, "0.1.0", "2.14.1")
    return ModelCard("residual", tuple("0123456789"), 1, 28, 28, (0.1307,), (0.3081,), origin)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with one run, runs/residual, trained on the digits and exported.

    One pytest-xdist worker trains it; the others copy it.
    """
    folder = tmp_path_factory.mktemp("workspace")
    if worker_id == "master":  # without pytest-xdist
        make_run(folder)
        return folder
    shared = tmp_path_factory.getbasetemp().parent
    with open(shared / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "runs").exists():
            make_run(folder)
            shutil.copytree(folder / "runs", shared / "runs")
            return folder
    shutil.copytree(shared / "runs", folder / "runs")
    return folder


def make_run(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        netkit.train("residual", data="digits", epochs=2, export_check=False)
        netkit.export_model()


@pytest.fixture(scope="session")
def model(workspace: Path) -> Model:
    """The exported model of `workspace`."""
    return onnx_file.read(workspace / "runs/residual/model.onnx")


@pytest.fixture(scope="session")
def session(model: Model) -> Session:
    return open_session(model, device="cpu", threads=1)


@pytest.fixture(name="netkit")
def netkit_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Netkit:
    """Run a command in this process, in an empty folder or in `cwd`; return what `run_netkit` returns.

    Example: netkit("infer", "a.png"). This is faster than a new process, which needs 1 to 5 s to import torch.
    """
    return partial(call_netkit, cwd=tmp_path, capfd=capfd)
