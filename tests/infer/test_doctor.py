"""The doctor says what it saw by running it, and what mends what is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from netkit.core import system
from netkit.infer.runtime import doctor
from netkit.infer.runtime.doctor import Symptom, examine
from tests.support.commands import Netkit

NO_DRIVER = system.missing_cuda_driver()
without_driver = pytest.mark.skipif(NO_DRIVER is None, reason="needs a machine without a CUDA driver")


def found() -> dict[str, Symptom]:
    symptoms = {symptom.what: symptom for symptom in examine()}
    assert all(symptom.right or symptom.mend for symptom in symptoms.values())
    return symptoms


@without_driver
def test_a_machine_without_a_gpu_is_well_and_runs_a_convolution_on_its_cpu() -> None:
    symptoms = found()
    assert all(symptom.right for symptom in symptoms.values())
    assert symptoms["a convolution on CPUExecutionProvider"].seen.startswith("largest error ")
    assert "a convolution on CUDAExecutionProvider" not in symptoms
    assert symptoms["CUDA"].seen == f"{NO_DRIVER}: the CPU is used"
    assert symptoms["cores"].seen.startswith(f"{system.usable_cores()} to use: ")
    assert symptoms["torch"].seen.startswith("2.")
    assert symptoms["packages"].seen.startswith("numpy 2.")


def versions(**known: str) -> Callable[[str], str | None]:
    return lambda package: known.get(package.replace("-", "_"))


@pytest.mark.parametrize(
    ("installed", "right", "seen", "mend"),
    [
        ({"onnxruntime": "1.31.1"}, True, "onnxruntime 1.31.1", ""),
        ({"onnxruntime_gpu": "1.31.1"}, True, "onnxruntime-gpu 1.31.1", ""),
        ({}, False, "not installed", "in a checkout of netkit: pip install '.[cpu]'"),
        (
            {"onnxruntime": "1.31.1", "onnxruntime_gpu": "1.30.0"},
            False,
            "onnxruntime 1.31.1, onnxruntime-gpu 1.30.0: one hides the other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
    ],
)
def test_one_onnx_runtime_is_right_none_and_two_are_wrong(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], right: bool, seen: str, mend: str
) -> None:
    monkeypatch.setattr(doctor, "_version", versions(**installed))
    assert found()["ONNX Runtime"] == Symptom("ONNX Runtime", right, seen, mend)


@without_driver
def test_a_card_without_a_driver_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has_nvidia_card", lambda: True)
    symptom = found()["CUDA"]
    assert not symptom.right
    assert symptom.seen.startswith("there is an NVIDIA card, but no NVIDIA driver on this machine")
    assert symptom.mend == "sudo apt install nvidia-driver-580"


@without_driver
def test_libraries_and_a_convolution_are_tried_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were one: the libraries load without it, the convolution does not run."""
    monkeypatch.setattr(system, "missing_cuda_driver", lambda: None)
    monkeypatch.setattr(system, "cuda_version", lambda: "13.0")
    symptoms = found()
    assert symptoms["CUDA"].seen == "the driver is for CUDA 13.0"
    assert symptoms["CUDA libraries"].seen.startswith("nvidia-cuda-")
    assert not symptoms["a convolution on CUDAExecutionProvider"].right
    monkeypatch.setattr(doctor, "CUDNN", "libcudnn.so.none")
    monkeypatch.setattr("netkit.infer.runtime.ort.preload_cuda", lambda: ["Failed to load libcudart.so.13"])
    libraries = found()["CUDA libraries"]
    assert libraries.seen == "Failed to load libcudart.so.13; libcudnn.so.none cannot be loaded"


def test_a_convolution_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = doctor._kernels()
    monkeypatch.setattr(doctor, "_kernels", iter([kernels * 1.001, kernels]).__next__)  # of the model, and of numpy
    symptom = found()["a convolution on CPUExecutionProvider"]
    assert not symptom.right


@without_driver
def test_the_command_prints_a_table_and_exits_with_0_where_all_is_well(netkit: Netkit) -> None:
    done = netkit("doctor")
    assert done.returncode == 0, done.stderr
    assert {line.split("  ")[0] for line in done.stdout.splitlines()} >= {"machine", "cores", "ONNX Runtime", "CUDA"}
    lines = [json.loads(line) for line in netkit("doctor", "--json").stdout.splitlines()]
    assert all(line["right"] for line in lines)


def test_an_onnxruntime_that_cannot_be_imported_is_a_symptom(netkit: Netkit, tmp_path: Path) -> None:
    (tmp_path / "shadow/onnxruntime").mkdir(parents=True)
    (tmp_path / "shadow/onnxruntime/__init__.py").write_text("raise ImportError('libcublas.so.13: not there')")
    path = os.pathsep.join([str(tmp_path / "shadow"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = netkit("doctor", "--json", PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    symptoms = {line["what"]: line for line in map(json.loads, done.stdout.splitlines())}
    convolution = symptoms["a convolution on CPUExecutionProvider"]
    assert convolution["seen"] == "onnxruntime cannot be imported: libcublas.so.13: not there"
    assert convolution["mend"]


def test_two_onnx_runtimes_are_told_with_what_mends_it(netkit: Netkit, tmp_path: Path) -> None:
    """As pip leaves them: one folder of files, two of what is known about them."""
    for package in ("onnxruntime", "onnxruntime_gpu"):
        about = tmp_path / f"site/{package}-1.31.1.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.31.1\n")
    done = netkit("doctor", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1 and "onnxruntime 1.31.1, onnxruntime-gpu 1.31.1: one hides the other" in done.stdout
    assert "ONNX Runtime: pip uninstall -y onnxruntime onnxruntime-gpu && pip install" in done.stderr
