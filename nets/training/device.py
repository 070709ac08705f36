"""Where to train and in which precision: --device and --precision as torch's device and dtype."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

from netkit.core.errors import DeviceError
from netkit.core.system import missing_cuda_driver

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device called "auto", "cpu" or "cuda"; with several GPUs the one with the number `local_rank`.

    "auto" is CUDA if it works, else the CPU, and logs the cause. Raises DeviceError, with the cause, if "cuda" does not
    work.
    """
    if name == "cpu":
        return torch.device("cpu")
    problem = _cuda_problem(local_rank)
    if problem is None:
        return torch.device("cuda", local_rank)
    if name == "cuda":
        raise DeviceError(f"--device cuda: {problem}")
    logger.info("training on the CPU: %s", problem)
    return torch.device("cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """The precision of convolutions: `name`, or for "auto" bf16 if the hardware has it, else fp32."""
    if name != "auto":
        return name
    has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which operators compute in `dtype` where they can; float32 changes nothing."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _cuda_problem(local_rank: int) -> str | None:
    """Why torch cannot use the GPU with that number, or None if it can."""
    if problem := missing_cuda_driver():
        return problem
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU; see nvidia-smi"
    if local_rank >= torch.cuda.device_count():
        return f"{torch.cuda.device_count()} GPUs here, too few for process {local_rank + 1} on this machine"
    return None
