"""Checks of arguments that several public functions share."""

from netkit.core.errors import unknown_name

DEVICES = ("auto", "cpu", "cuda")


def check_device(device: str) -> None:
    """Raise UsageError, which suggests the closest known name, if `device` is not in DEVICES."""
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
