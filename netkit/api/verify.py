"""netkit.verify: whether a model still is, and computes, what its certificate says."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.core.runs import MODEL, choose
from netkit.infer.check import Check
from netkit.infer.model import onnx_file
from netkit.infer.model import verify as checks


def verify(model: str | Path, *, device: str = "auto") -> tuple[Check, ...]:
    """Check that a model is unchanged since it was certified, and that its outputs on this machine are as certified.

    Args:
        model: An .onnx file that netkit exported.
        device: `cpu`, `cuda`, or `auto` for each device that works here.

    Returns:
        What was checked, one by one. The model passes if all checks are `ok`.

    Raises:
        UsageError: There is no such file or device name.
        ModelError: The file is not an ONNX model, or carries no certificate.
        DeviceError: The device cannot be used.

    Example:
        >>> checks = netkit.verify("runs/residual/model.onnx", device="cpu")
        >>> all(check.ok for check in checks)
        True
    """
    check_device(device)
    return tuple(checks.verify(onnx_file.read(choose(MODEL, file=Path(model), arch=None)), device=device))
