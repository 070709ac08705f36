"""ONNX Runtime's names for the devices that netkit supports. Needs no ONNX Runtime."""

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}  # by device, as --device and PyTorch name it


def device_of(provider: str) -> str:
    """The device, "cpu" or "cuda", that a provider runs on."""
    return "cuda" if provider == CUDA else "cpu"
