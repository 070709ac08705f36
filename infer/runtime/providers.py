"""ONNX Runtime's names for the devices that netkit supports. Does not import ONNX Runtime."""

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}  # by the device's name in --device and in PyTorch
NAMES = {CPU: "the CPU", CUDA: "CUDA"}  # in messages


def device_of(provider: str) -> str:
    """Return the device that a provider runs on, "cpu" or "cuda"."""
    return "cuda" if provider == CUDA else "cpu"
