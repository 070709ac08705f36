"""Users' files with the names of netkit's folders, such as infer.py, do not break netkit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from netkit.data.dataset import ArrayDataSet
from tests.support.commands import NETKIT

SCRIPT = """
if __name__ != "__main__":
    raise ImportError("the user's infer.py was imported")
import netkit
print(netkit.load("model.onnx", device="cpu")("digit.png").status)
"""
NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, channels, classes, size):
        super().__init__(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
"""


@pytest.fixture
def folder(tmp_path: Path, workspace: Path, digits_data: ArrayDataSet) -> Path:
    """A folder with a model, an image, and Python files that must not be imported."""
    shutil.copy(workspace / "runs/residual/model.onnx", tmp_path)
    Image.fromarray(digits_data.test_images[0, 0]).save(tmp_path / "digit.png")
    (tmp_path / "nets").mkdir()
    for name in ("export.py", "data.py", "nets/__init__.py"):
        (tmp_path / name).write_text(f"raise ImportError('the {name} of the user was imported')\n")
    (tmp_path / "infer.py").write_text(SCRIPT)
    return tmp_path


def run(*command: str | Path, cwd: Path, path: str = "") -> str:
    """Run a command that must succeed, with `path` first in PYTHONPATH; return its stdout."""
    paths = filter(None, (path, os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_named_infer_can_load_a_model(folder: Path) -> None:
    assert run(sys.executable, "infer.py", cwd=folder) == "ok\n"


def test_infer_works_with_the_folder_in_pythonpath(folder: Path) -> None:
    rows = run(NETKIT, "infer", "digit.png", "--model", "model.onnx", cwd=folder, path=".")
    assert rows.splitlines()[1].startswith("digit.png,")


def test_python_m_netkit_works_in_the_folder(folder: Path) -> None:
    assert run(sys.executable, "-m", "netkit", "--version", cwd=folder).startswith("netkit, version ")
    sample = ("sample", "images/", "--data", "digits", "--count", "3")
    assert run(sys.executable, "-m", "netkit", *sample, cwd=folder) == "wrote 3 images to images/\n"


TRAIN = ("train", "--data", "digits", "--epochs", "0.2", "--no-export-check", "--out", "run")


def test_torchrun_m_netkit_works_in_the_folder(folder: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m")
    assert run(*torchrun, "netkit", *TRAIN, "--arch", "residual", cwd=folder).startswith("run/model.safetensors: ")


def test_a_network_in_the_users_folder_nets_can_be_trained(folder: Path) -> None:
    (folder / "nets/__init__.py").write_text("")
    (folder / "nets/mine.py").write_text(NET)
    assert run(NETKIT, *TRAIN, "--arch", "nets.mine:Net", cwd=folder).startswith("run/model.safetensors: ")
    assert b"nets.mine:Net" in (folder / "run/model.safetensors").read_bytes()
