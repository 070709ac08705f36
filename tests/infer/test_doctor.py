"""`netkit doctor` checks what the machine can run by running it, and prints a command that fixes a failed check."""

import json
import os
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from netkit.core import system
from netkit.infer.check import Check
from netkit.infer.runtime import doctor
from netkit.infer.runtime.doctor import examine
from netkit.infer.runtime.session import Session
from tests.support.commands import Netkit, run_netkit

NO_DRIVER = system.missing_cuda_driver()
without_driver = pytest.mark.skipif(NO_DRIVER is None, reason="needs a machine without a CUDA driver")


def checks_by_name() -> dict[str, Check]:
    checks = {check.name: check for check in examine()}
    assert all(check.ok or check.fix for check in checks.values())
    return checks


@without_driver
def test_a_machine_without_a_gpu_passes_and_runs_a_convolution_on_the_cpu() -> None:
    checks = checks_by_name()
    assert all(check.ok for check in checks.values())
    assert checks["a convolution on the CPU"].detail.startswith("largest error of the result ")
    assert "a convolution on CUDA" not in checks
    cause = f"{NO_DRIVER} (libcuda.so.1 cannot be loaded)"
    assert checks["CUDA"].detail == f"not available, so netkit uses the CPU: {cause}"
    assert checks["cores"].detail.startswith(f"{system.usable_cores()} usable (CPU affinity: ")
    assert checks["torch"].detail.startswith("2.")
    assert checks["packages"].detail.startswith("numpy 2.")


def write_metadata(folder: Path, **versions: str) -> Path:
    """Write the metadata of installed packages with these versions into a folder."""
    for package, version in versions.items():
        metadata_folder = folder / f"{package}-{version}.dist-info"
        metadata_folder.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n"
        (metadata_folder / "METADATA").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("installed", "ok", "detail", "fix"),
    [
        ({"onnxruntime": "1.31.1"}, True, "onnxruntime 1.31.1", ""),
        ({"onnxruntime_gpu": "1.31.1"}, True, "onnxruntime-gpu 1.31.1", ""),
        ({}, False, "not installed", "in a checkout of netkit: pip install '.[cpu]'"),
        (
            {"onnxruntime": "1.31.1", "onnxruntime_gpu": "1.30.0"},
            False,
            "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
    ],
)
def test_exactly_one_onnx_runtime_must_be_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: dict[str, str], ok: bool, detail: str, fix: str
) -> None:
    packages = list(distributions(path=[str(write_metadata(tmp_path, **installed))]))
    monkeypatch.setattr(doctor, "distributions", lambda: packages)
    assert checks_by_name()["ONNX Runtime"] == Check("ONNX Runtime", ok, detail, fix)


def test_an_onnx_runtime_in_a_later_folder_of_the_path_is_ignored(tmp_path: Path) -> None:
    first = write_metadata(tmp_path / "first", onnxruntime_gpu="1.30.0")
    second = write_metadata(tmp_path / "second", onnxruntime="1.31.1")
    for path, detail in (([first, second], "onnxruntime-gpu 1.30.0"), ([second, first], "onnxruntime 1.31.1")):
        done = run_netkit("doctor", "--json", cwd=tmp_path, PYTHONPATH=os.pathsep.join(map(str, path)))
        checks = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}
        assert checks["ONNX Runtime"]["ok"] and checks["ONNX Runtime"]["detail"] == detail


@without_driver
def test_an_nvidia_gpu_without_a_driver_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: True)
    check = checks_by_name()["CUDA"]
    assert not check.ok
    assert check.detail.startswith("there is an NVIDIA GPU, but no NVIDIA driver on this machine")
    assert check.fix == "sudo apt install nvidia-driver-580"


@without_driver
def test_cuda_libraries_and_a_convolution_are_checked_if_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test pretends that there is a driver: the libraries load without it, but the convolution does not run."""
    monkeypatch.setattr(system, "missing_cuda_driver", lambda: None)
    monkeypatch.setattr(system, "cuda_version", lambda: "13.0")
    checks = checks_by_name()
    assert checks["CUDA"].detail == "the driver supports CUDA 13.0"
    assert checks["CUDA libraries"].detail.startswith("nvidia-cuda-")
    assert not checks["a convolution on CUDA"].ok
    monkeypatch.setattr(doctor, "CUDNN", "libcudnn.so.none")
    monkeypatch.setattr("netkit.infer.runtime.ort.preload_cuda", lambda: ["Failed to load libcudart.so.13"])
    libraries = checks_by_name()["CUDA libraries"]
    assert libraries.detail == "Failed to load libcudart.so.13; libcudnn.so.none cannot be loaded"


def test_a_wrong_convolution_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run

    def imprecise(self: Session, images_u8: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, probabilities = run(self, images_u8)
        return logits * np.float32(1.001), probabilities

    monkeypatch.setattr(Session, "run", imprecise)
    assert not checks_by_name()["a convolution on the CPU"].ok


@without_driver
def test_the_command_prints_a_table_and_exits_with_0_if_all_checks_pass(netkit: Netkit) -> None:
    done = netkit("doctor")
    assert done.returncode == 0, done.stderr
    assert {line.split("  ")[0] for line in done.stdout.splitlines()} >= {"machine", "cores", "ONNX Runtime", "CUDA"}
    lines = [json.loads(line) for line in netkit("doctor", "--json").stdout.splitlines()]
    assert all(line["ok"] for line in lines)


def test_an_onnxruntime_that_cannot_be_imported_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "shadow/onnxruntime").mkdir(parents=True)
    (tmp_path / "shadow/onnxruntime/__init__.py").write_text("raise ImportError('libcublas.so.13: not there')")
    path = os.pathsep.join([str(tmp_path / "shadow"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run_netkit("doctor", "--json", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    checks = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}
    convolution = checks["a convolution on the CPU"]
    assert convolution["detail"] == "onnxruntime cannot be imported: libcublas.so.13: not there"
    assert convolution["fix"]


def test_two_onnx_runtimes_are_reported_with_the_fix(tmp_path: Path) -> None:
    """pip installs both into one package folder, and keeps the metadata of both."""
    site = write_metadata(tmp_path / "site", onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    done = run_netkit("doctor", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 1
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 overwrite each other's files" in done.stdout
    assert "ONNX Runtime: pip uninstall -y onnxruntime onnxruntime-gpu && pip install" in done.stderr
