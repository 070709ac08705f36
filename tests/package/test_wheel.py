"""The wheel, installed into an empty environment without PyTorch and without a checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from netkit.data.dataset import ArrayDataSet
from netkit.data.sample import write_sample

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "netkit", "nets", "export", "infer")
OLDEST_MINOR = 11  # Python 3.11, the minimum in pyproject.toml
NEWEST_MINOR = 20  # the search for a newer Python starts here
THIS, NEWEST, MINIMUM = "this Python", "newest Python", "minimum versions"
OPTIONAL = ("cpu", "parquet", "remote", "report")


def run(*command: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=600
    )


def find_python(minor: int) -> str | None:
    """Return a Python 3.`minor` that can create virtual environments, or None."""
    if minor == sys.version_info.minor:
        return sys.executable
    name = f"python3.{minor}"
    if not shutil.which(name):
        return None
    # a shim of pyenv runs the version that PYENV_VERSION names
    done = run(name, "-c", "import ensurepip, sys; print(sys.executable)", cwd=CHECKOUT, PYENV_VERSION=f"3.{minor}")
    return done.stdout.strip() if done.returncode == 0 else None


def lower_bounds(extras: tuple[str, ...]) -> list[str]:
    """Pin the dependencies, with those of the extras, to the lowest versions that pyproject.toml allows."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    optional = [text for extra in extras for text in project["optional-dependencies"][extra]]
    pins = []
    for requirement in map(Requirement, project["dependencies"] + optional):
        (lowest,) = (clause.version for clause in requirement.specifier if clause.operator == ">=")
        pins.append(f"{requirement.name}=={lowest}")
    return pins


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources without symbolic links and without files of earlier builds."""
    folder = tmp_path_factory.mktemp("wheel")

    def ignore(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name == "__pycache__" or Path(folder, name).is_symlink()}

    (folder / "source").mkdir()
    for name in SOURCES:
        if (source := CHECKOUT / name).is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=ignore)
        else:
            shutil.copy(source, folder / "source")
    pip = (sys.executable, "-m", "pip", "--quiet")
    built = run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("netkit-*.whl")
    return wheel


@pytest.fixture(
    scope="module",
    params=[THIS, pytest.param(NEWEST, marks=pytest.mark.slow), pytest.param(MINIMUM, marks=pytest.mark.slow)],
)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and its extra [cpu], and for MINIMUM also with OPTIONAL."""
    folder = tmp_path_factory.mktemp("environment")
    python: str | None = sys.executable
    extras: tuple[str, ...] = ("cpu",)
    constraints = CHECKOUT / "constraints.txt"
    if request.param == NEWEST:
        newer = map(find_python, range(NEWEST_MINOR, sys.version_info.minor, -1))
        python = next(filter(None, newer), None)
    elif request.param == MINIMUM:
        python, extras, constraints = find_python(OLDEST_MINOR), OPTIONAL, folder / "minimum.txt"
        constraints.write_text("\n".join(lower_bounds(extras)))
    if python is None:
        pytest.skip(f"{request.param}: PATH has no other Python that can create virtual environments")
    made = run(python, "-m", "venv", folder / "env", cwd=folder)
    assert made.returncode == 0, made.stderr
    pip = (folder / "env/bin/python", "-m", "pip", "--quiet")
    done = run(*pip, "install", "-c", constraints, f"{wheel}[{','.join(extras)}]", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "env/bin"


def test_the_wheel_contains_only_netkit(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        names = {line.split(",")[0] for line in archive.read(record).decode().splitlines()}
    assert {name.partition("/")[0] for name in names} == {"netkit", record.partition("/")[0]}
    folders = {"netkit": "netkit", **{name: f"netkit/{name}" for name in ("nets", "export", "infer")}}
    modules = {
        f"{target}/{path.relative_to(CHECKOUT / source).as_posix()}"
        for source, target in folders.items()
        for path in (CHECKOUT / source).rglob("*.py")
    }
    data = {"netkit/py.typed", "netkit/infer/evaluation/report.html.jinja"}
    assert {name for name in names if name.startswith("netkit/")} == modules | data


def test_the_environment_has_no_torch(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "python", "-c", "import torch", cwd=tmp_path)
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


def test_help_version_and_suggestions_work_in_the_environment(installed: Path, tmp_path: Path) -> None:
    assert "netkit infer images/" in run(installed / "netkit", "--help", cwd=tmp_path).stdout
    assert run(installed / "netkit", "--version", cwd=tmp_path).stdout.startswith("netkit, version ")
    assert "did you mean 'train'?" in run(installed / "netkit", "trian", cwd=tmp_path).stderr


def test_infer_predicts_the_same_labels_in_the_environment(
    installed: Path, tmp_path: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    write_sample(digits_data, tmp_path / "images", count=64)
    arguments = ("infer", "images/", "--model", workspace / "runs/residual/model.onnx")
    from_wheel = run(installed / "netkit", *arguments, cwd=tmp_path)
    from_checkout = run(Path(sys.executable).with_name("netkit"), *arguments, cwd=tmp_path)
    assert from_wheel.returncode == 0, from_wheel.stderr
    assert "" not in from_wheel.stderr.splitlines()
    assert len(from_wheel.stdout.splitlines()) == 65
    labels = [[line.split(",")[:2] for line in done.stdout.splitlines()] for done in (from_wheel, from_checkout)]
    assert labels[0] == labels[1]


def test_verify_passes_in_the_environment(installed: Path, tmp_path: Path, workspace: Path) -> None:
    done = run(installed / "netkit", "verify", workspace / "runs/residual/model.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [re.split(r"\s{2,}", line)[1] for line in done.stdout.splitlines()[1:]] == ["ok"] * 5


@pytest.mark.parametrize("command", [("train", "--data", "digits"), ("nets",)])
def test_a_command_that_needs_torch_names_the_extra(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(installed / "netkit", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "install netkit's extra [train]" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("installed", [MINIMUM], indirect=True)
def test_optional_features_work_with_the_minimum_versions(
    installed: Path, tmp_path: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    write_sample(digits_data, tmp_path / "images", count=64)
    model = workspace / "runs/residual/model.onnx"
    url = (tmp_path / "images").as_uri()
    for arguments in (
        ("infer", url, "--model", model, "--out", "rows.parquet"),
        ("evaluate", model, "--data", "images", "--out", "report.html"),
    ):
        done = run(installed / "netkit", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    count = "from pyarrow import parquet; print(parquet.read_metadata('rows.parquet').num_rows)"
    assert run(installed / "python", "-c", count, cwd=tmp_path).stdout == "64\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
