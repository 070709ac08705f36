"""Choice of the device and the precision of a training run."""

from pathlib import Path

import pytest
import torch

from netkit.core.errors import DeviceError
from netkit.core.system import missing_cuda_driver
from netkit.nets.training.device import DTYPES, choose_device, choose_precision

CPU = torch.device("cpu")
without_driver = pytest.mark.skipif(missing_cuda_driver() is None, reason="needs a machine without a CUDA driver")


@without_driver
def test_cuda_without_a_driver_is_rejected_with_the_cause() -> None:
    with pytest.raises(DeviceError, match=r"^--device cuda: no NVIDIA driver on this machine; pass --device cpu "):
        choose_device("cuda")


@without_driver
def test_auto_falls_back_to_the_cpu_and_names_the_cause() -> None:
    assert choose_device("auto") == (CPU, "the CPU (no NVIDIA driver on this machine)")


def test_cpu_is_chosen_without_a_cause() -> None:
    assert choose_device("cpu") == (CPU, "the CPU")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs CUDA: {missing_cuda_driver()}")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_cuda_is_chosen_if_it_works(name: str) -> None:
    assert choose_device(name) == (torch.device("cuda", 0), "CUDA")


@pytest.mark.parametrize("name", DTYPES)
def test_requested_precision_is_used(name: str) -> None:
    assert choose_precision(name, CPU) == name


def test_auto_chooses_bf16_only_if_the_cpu_supports_it() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip(f"needs {cpuinfo}")
    flags = cpuinfo.read_text()
    has_bf16 = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_precision("auto", CPU) == ("bf16" if has_bf16 else "fp32")
