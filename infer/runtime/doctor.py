"""Doctor: checks what this machine can run; a failed check has a command that fixes it. Works without ONNX Runtime."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import numpy as np
import onnx

from netkit.core import system
from netkit.core.errors import NetkitError
from netkit.core.model_card import METADATA_KEY, ModelCard, Origin
from netkit.core.version import VERSION
from netkit.infer.check import Check
from netkit.infer.model import onnx_file
from netkit.infer.runtime.providers import NAMES, PROVIDERS

NVIDIA_VENDOR = "0x10de"  # PCI vendor ID
INSTALL_EXTRA = "in a checkout of netkit: pip install '.[{}]'"
INSTALL_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
CUDNN = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
TOLERANCE = 1e-4  # error of a convolution in float32, relative to the largest result
CONVOLUTION = """
<ir_version: 10, opset_import: ["" : 20]>
convolution (uint8[N, 1, 8, 8] images) => (float[N, 4] logits, float[N, 4] probabilities) {
    pixels = Cast <to = 1> (images)
    maps = Conv (pixels, kernels)
    means = GlobalAveragePool (maps)
    logits = Flatten (means)
    probabilities = Softmax (logits)
}
"""


def examine() -> Iterator[Check]:
    """Run all checks, the most basic first."""
    yield Check("machine", True, f"{platform.platform()}; Python {platform.python_version()}")
    yield Check("netkit", True, f"{VERSION} in {sys.prefix}")
    yield _check_cores()
    yield _check_onnxruntime()
    packages = ("numpy", "onnx", "pillow", "click", "rich")
    yield Check("packages", True, ", ".join(f"{package} {installed_version(package)}" for package in packages))
    yield _check_cuda()
    package = (installed_onnxruntimes() or ["onnxruntime"])[0].split()[0]
    yield _check_convolution("cpu", fix=f"pip install --force-reinstall {package}")
    if system.missing_cuda_driver() is None:
        yield _check_cuda_libraries()
        yield _check_convolution("cuda", fix=INSTALL_CUDA)
    for package, extra, purpose in (("torch", "train", "train and export"), ("pyarrow", "parquet", "write .parquet")):
        installed = installed_version(package)
        fix = "" if installed else INSTALL_EXTRA.format(extra)
        yield Check(package, True, installed or f"not installed: needed to {purpose}", fix)


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed_onnxruntimes() -> list[str]:
    """List the ONNX Runtime packages in the first folder of sys.path that has one, as "name version".

    Two packages in one folder overwrite each other's files. Packages in later folders are not imported.
    """
    installed = [package for package in distributions() if package.name in ("onnxruntime", "onnxruntime-gpu")]
    imported = [package for package in installed if package.locate_file("") == installed[0].locate_file("")]
    return sorted({f"{package.name} {package.version}" for package in imported})


def has_nvidia_gpu() -> bool:
    """Whether there is an NVIDIA device on the PCI bus, as far as the system lists it."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == NVIDIA_VENDOR for vendor in vendors)


def _check_cores() -> Check:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = system.cgroup_quota(system.CGROUP_ROOT, system.CGROUP_MEMBERSHIP)
    limit = "no quota" if quota is None else f"quota: {quota:g}"
    return Check("cores", True, f"{system.usable_cores()} usable (CPU affinity: {affinity}; {limit})")


def _check_onnxruntime() -> Check:
    installed = installed_onnxruntimes()
    if len(installed) == 2:
        fix = f"pip uninstall -y onnxruntime onnxruntime-gpu && {INSTALL_CUDA}"
        return Check("ONNX Runtime", False, f"{' and '.join(installed)} overwrite each other's files", fix)
    if not installed:
        return Check("ONNX Runtime", False, "not installed", INSTALL_EXTRA.format("cpu"))
    return Check("ONNX Runtime", True, installed[0])


def _check_cuda() -> Check:
    if missing := system.missing_cuda_driver():
        cause = f"{missing} ({system.CUDA_DRIVER} cannot be loaded)"
        if has_nvidia_gpu():
            return Check("CUDA", False, f"there is an NVIDIA GPU, but {cause}", "sudo apt install nvidia-driver-580")
        return Check("CUDA", True, f"not available, so netkit uses the CPU: {cause}")
    if not any(package.startswith("onnxruntime-gpu ") for package in installed_onnxruntimes()):
        fix = f"pip uninstall -y onnxruntime && {INSTALL_CUDA}"
        return Check("CUDA", False, "there is a driver, but onnxruntime-gpu is not installed", fix)
    return Check("CUDA", True, f"the driver supports CUDA {system.cuda_version()}")


def _check_cuda_libraries() -> Check:
    try:
        from netkit.infer.runtime import ort

        missing = ort.preload_cuda()
    except ImportError as exc:
        return _import_failed("CUDA libraries", exc, INSTALL_CUDA)
    try:
        ctypes.CDLL(CUDNN)
    except OSError:
        missing.append(f"{CUDNN} cannot be loaded")
    if missing:
        return Check("CUDA libraries", False, "; ".join(missing), INSTALL_CUDA)
    nvidia_packages = [package for package in distributions() if package.name.startswith("nvidia-cud")]
    versions = sorted(f"{package.name} {package.version}" for package in nvidia_packages)
    return Check("CUDA libraries", True, "; ".join(versions) or "found")


def _check_convolution(device: str, fix: str) -> Check:
    """Run a convolution on the device and compare the result with NumPy's."""
    name = f"a convolution on {NAMES[PROVIDERS[device]]}"
    images_u8 = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), np.uint8)
    kernels = np.random.default_rng(1).normal(size=(4, 1, 3, 3)).astype(np.float32)
    proto = onnx.parser.parse_model(CONVOLUTION)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(kernels, "kernels"))
    card = ModelCard("convolution", tuple("abcd"), 1, 8, 8, (0.0,), (1.0,), Origin("", "", {}, 0, 0.0, "", ""))
    proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    try:
        from netkit.infer.runtime.session import open_session  # imports ONNX Runtime

        logits, _ = open_session(onnx_file.check(proto.SerializeToString(), name), device=device).run(images_u8)
    except ImportError as exc:
        return _import_failed(name, exc, fix)
    except NetkitError as exc:
        return Check(name, False, str(exc), fix)
    windows = np.lib.stride_tricks.sliding_window_view(images_u8[:, 0].astype(np.float64), (3, 3), axis=(1, 2))
    expected = np.einsum("nhwij,cij->nc", windows, kernels[:, 0].astype(np.float64)) / 36  # 6 x 6 windows
    error = np.abs(logits - expected).max()
    bound = TOLERANCE * np.abs(expected).max()
    ok = bool(error <= bound)
    return Check(name, ok, f"largest error of the result {error:.2g}, allowed {bound:.2g}", "" if ok else fix)


def _import_failed(name: str, exc: ImportError, fix: str) -> Check:
    return Check(name, False, f"onnxruntime cannot be imported: {exc}", fix)
