"""Names that several public functions take."""

from netkit.core.errors import unknown_name

DEVICES = ("auto", "cpu", "cuda")


def check_device(device: str) -> None:
    """Raise UsageError, with the closest known name, unless `device` is in DEVICES."""
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
