"""Choice of the device and the precision of a training run: --device and --precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from netkit.core.errors import DeviceError
from netkit.core.system import missing_cuda_driver

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, *, local_rank: int = 0) -> tuple[torch.device, str]:
    """Return the device for "auto", "cpu" or "cuda", and its name in messages.

    "auto" chooses CUDA if it works, otherwise the CPU; the name then includes the cause. With several GPUs, CUDA is the
    one with index `local_rank`. Raises DeviceError, with the cause, if "cuda" does not work.
    """
    problem = None if name == "cpu" else _cuda_problem(local_rank)
    if problem and name == "cuda":
        raise DeviceError(f"--device cuda: {problem}; pass --device cpu to use the CPU")
    if problem or name == "cpu":
        return torch.device("cpu"), f"the CPU ({problem})" if problem else "the CPU"
    return torch.device("cuda", local_rank), "CUDA"


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision of the forward pass: `name`, or for "auto" bf16 if the hardware supports it, else fp32."""
    if name != "auto":
        return name
    has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return torch's autocast context for `dtype`, or an empty context for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _cuda_problem(local_rank: int) -> str | None:
    """Return why torch cannot use the GPU with index `local_rank`, or None if it can."""
    if problem := missing_cuda_driver():
        return problem
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU; see nvidia-smi"
    if local_rank >= torch.cuda.device_count():
        return f"process {local_rank + 1} has no GPU: this machine has {torch.cuda.device_count()}"
    return None
