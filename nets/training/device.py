"""Where to train and in which precision: from what --device and --precision say to what torch takes."""

import logging

import torch

from nets.errors import DeviceError, unknown_name
from nets.machine import missing_cuda_driver

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device called "auto", "cpu" or "cuda". DeviceError names the cause where CUDA is asked for and absent.

    "auto" takes CUDA where it works, else the CPU, and says why.
    """
    if name == "cpu":
        return torch.device("cpu")
    fault = _cuda_fault()
    if fault is None:
        return torch.device("cuda")
    if name == "cuda":
        raise DeviceError(f"--device cuda: {fault}")
    logger.info("training on the CPU: %s", fault)
    return torch.device("cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype that convolutions run in: "fp32", "bf16", or "auto": bf16 where the hardware multiplies in it."""
    if name == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
        return torch.bfloat16 if has_bf16 else torch.float32
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise unknown_name("precision", name, ["auto", *dtypes])
    return dtypes[name]


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _cuda_fault() -> str | None:
    """Why torch cannot use CUDA here, or None where it can."""
    if fault := missing_cuda_driver():
        return fault
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU; see nvidia-smi"
    return None
