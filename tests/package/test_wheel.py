"""netkit as a deployment machine has it: a wheel with [cpu], in an empty environment, with no torch and no checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netkit.data.dataset import HeldDataSet
from netkit.data.sample import write_sample

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "netkit", "nets", "export", "infer")


def run(*command: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with nothing but netkit's wheel and its extra [cpu]."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy: what an earlier build left in the checkout would hide a forgotten package
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(source, folder / "source")
    pip = (sys.executable, "-m", "pip", "--quiet")
    built = run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("netkit-*.whl")
    assert run(sys.executable, "-m", "venv", folder / "env", cwd=folder).returncode == 0
    python = folder / "env/bin/python"
    constraints = CHECKOUT / "constraints.txt"
    done = run(python, "-m", "pip", "--quiet", "install", "-c", constraints, f"{wheel}[cpu]", cwd=folder)
    assert done.returncode == 0, done.stderr
    return python.parent


def test_the_environment_has_no_torch(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "python", "-c", "import torch", cwd=tmp_path)
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


def test_help_and_version_run_there(installed: Path, tmp_path: Path) -> None:
    assert "netkit infer images/" in run(installed / "netkit", "--help", cwd=tmp_path).stdout
    assert run(installed / "netkit", "--version", cwd=tmp_path).stdout.startswith("netkit, version ")


def test_infer_gives_there_what_it_gives_here(
    installed: Path, tmp_path: Path, workplace: Path, digits_data: HeldDataSet
) -> None:
    write_sample(digits_data, tmp_path / "images", count=64)
    arguments = ("infer", "images/", "--model", workplace / "runs/residual/model.onnx")
    there = run(installed / "netkit", *arguments, cwd=tmp_path)
    here = run(Path(sys.executable).with_name("netkit"), *arguments, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert len(there.stdout.splitlines()) == 65
    answers = [[line.split(",")[:2] for line in done.stdout.splitlines()] for done in (there, here)]
    assert answers[0] == answers[1]


def test_a_model_proves_itself_there(installed: Path, tmp_path: Path, workplace: Path) -> None:
    done = run(installed / "netkit", "verify", workplace / "runs/residual/model.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == ["yes"] * 5


@pytest.mark.parametrize("command", [("train", "--data", "digits"), ("nets",)])
def test_what_needs_torch_says_which_extra_installs_it(
    installed: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run(installed / "netkit", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "which netkit's extra [train] installs" in done.stderr
    assert done.stderr.count("\n") == 1
