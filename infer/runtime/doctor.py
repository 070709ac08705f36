"""Doctor: what this machine can run, found by running it; and for what is wrong, the one command that mends it."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from netkit.core import system
from netkit.core.errors import NetkitError, reraise_interrupt
from netkit.core.model_card import METADATA_KEY, ModelCard, Origin
from netkit.infer.model import onnx_file
from netkit.infer.model.certificate import CPU, CUDA
from netkit.infer.model.onnx_file import INPUT, OUTPUTS, Model

NVIDIA = "0x10de"  # as a vendor on the PCI bus
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
CUDNN = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
INSTALL = "in a checkout of netkit: pip install '.[{}]'"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
CLOSE = 1e-4  # how far a convolution of small numbers may be from numpy's


@dataclass(frozen=True)
class Symptom:
    """Something that was looked at: what, whether it is as it should be, what was seen, and what mends it."""

    what: str
    right: bool
    seen: str
    mend: str = ""


def examine() -> Iterator[Symptom]:
    """All there is to know, the most basic first."""
    yield Symptom("machine", True, f"{platform.platform()}; Python {platform.python_version()}")
    yield Symptom("netkit", True, f"{_version('netkit')} in {Path(sys.prefix)}")
    yield _cores()
    yield _runtime()
    yield _packages()
    yield _driver()
    yield _convolution("cpu")
    if system.missing_cuda_driver() is None:
        yield _libraries()
        yield _convolution("cuda")
    for package, extra, purpose in (("torch", "train", "train and export"), ("pyarrow", "parquet", "write .parquet")):
        found = _version(package)
        yield Symptom(
            package, True, found or f"not installed: needed to {purpose}", "" if found else INSTALL.format(extra)
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cores() -> Symptom:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = system.cgroup_quota(system.CGROUP, system.MEMBER)
    limit = "no quota" if quota is None else f"a quota of {quota:g}"
    return Symptom("cores", True, f"{system.usable_cores()} to use: {affinity} by affinity, {limit}")


def _runtime() -> Symptom:
    found = {package: known for package in RUNTIMES if (known := _version(package))}
    seen = ", ".join(f"{package} {known}" for package, known in found.items())
    if len(found) == 2:
        mend = f"pip uninstall -y onnxruntime onnxruntime-gpu && {LIBRARIES}"
        return Symptom("ONNX Runtime", False, f"{seen}: one hides the other", mend)
    return Symptom("ONNX Runtime", bool(found), seen or "not installed", "" if found else INSTALL.format("cpu"))


def _packages() -> Symptom:
    found = ((package, _version(package)) for package in ("numpy", "onnx", "pillow", "click", "rich"))
    return Symptom("packages", True, ", ".join(f"{package} {known}" for package, known in found))


def _driver() -> Symptom:
    missing, card = system.missing_cuda_driver(), _has_nvidia_card()
    if missing and card:
        return Symptom("CUDA", False, f"there is an NVIDIA card, but {missing}", "sudo apt install nvidia-driver-580")
    if missing:
        return Symptom("CUDA", True, f"{missing}: the CPU is used")
    if not _version("onnxruntime-gpu"):
        mend = f"pip uninstall -y onnxruntime && {LIBRARIES}"
        return Symptom("CUDA", False, "there is a driver, but no onnxruntime-gpu to use it", mend)
    return Symptom("CUDA", True, f"the driver is for CUDA {system.cuda_version()}")


def _libraries() -> Symptom:
    """Those of CUDA and cuDNN that ONNX Runtime needs."""
    try:
        from netkit.infer.runtime import ort

        missing = ort.preload_cuda()
    except ImportError as fault:
        reraise_interrupt(fault)
        return Symptom("CUDA libraries", False, f"onnxruntime cannot be imported: {fault}", LIBRARIES)
    with suppress(OSError):
        ctypes.CDLL(CUDNN)
        packages = (f"{each.name} {each.version}" for each in distributions() if each.name.startswith("nvidia-cud"))
        seen = "; ".join(missing or sorted(packages)) or "found"
        return Symptom("CUDA libraries", not missing, seen, LIBRARIES if missing else "")
    return Symptom("CUDA libraries", False, "; ".join([*missing, f"{CUDNN} cannot be loaded"]), LIBRARIES)


def _has_nvidia_card() -> bool:
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == NVIDIA for vendor in vendors)


def _convolution(device: str) -> Symptom:
    """Run one there, and compare it with numpy's."""
    what, images_u8 = f"a convolution on {PROVIDERS[device]}", _images()
    mend = LIBRARIES if device == "cuda" else "pip install --force-reinstall onnxruntime"
    try:
        from netkit.infer.runtime.session import (
            open_session,  # which needs ONNX Runtime: it may be what is missing here
        )

        logits, _ = open_session(_model(), device=device).run(images_u8)
    except ImportError as fault:
        reraise_interrupt(fault)
        return Symptom(what, False, f"onnxruntime cannot be imported: {fault}", mend)
    except NetkitError as fault:
        return Symptom(what, False, str(fault), mend)
    windows = np.lib.stride_tricks.sliding_window_view(images_u8[:, 0].astype(np.float64), (3, 3), axis=(1, 2))
    expected = np.einsum("nhwij,cij->nc", windows, _kernels().astype(np.float64)) / 36
    error = float(np.abs(logits - expected).max())
    right = error <= CLOSE * float(np.abs(expected).max())
    return Symptom(what, right, f"largest error {error:.2g}", "" if right else mend)


def _images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), np.uint8)


def _kernels() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(4, 3, 3)).astype(np.float32)


def _model() -> Model:
    """A convolution without padding, and the mean of each of its four channels as logits."""
    nodes = [
        helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "kernels"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], [OUTPUTS[0]]),
        helper.make_node("Softmax", [OUTPUTS[0]], [OUTPUTS[1]]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in OUTPUTS],
        [numpy_helper.from_array(_kernels()[:, None], "kernels")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    origin = Origin("", "", {}, 0, 0.0, "", "")
    card = ModelCard("convolution", tuple("abcd"), 1, 8, 8, (0.0,), (1.0,), origin)
    proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    return onnx_file.check(proto.SerializeToString(), "a convolution")
