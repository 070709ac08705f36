"""netkit.verify: check a model against its certificate."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.core.runs import MODEL, choose
from netkit.infer.check import Check
from netkit.infer.model import onnx_file
from netkit.infer.model import verify as checks


def verify(model: str | Path, *, device: str = "auto") -> tuple[Check, ...]:
    """Check that a model is unchanged since its export and that its outputs on this machine match its certificate.

    Args:
        model: An .onnx file that netkit exported.
        device: `cpu`, `cuda`, or `auto` for every device that works on this machine.

    Returns:
        The results of the checks. The model passes if all of them are `ok`.

    Raises:
        UsageError: The file does not exist, or the device name is unknown.
        ModelError: The file is not an ONNX model, or has no certificate.
        DeviceError: The device cannot be used.

    Example:
        >>> checks = netkit.verify("runs/residual/model.onnx", device="cpu")
        >>> all(check.ok for check in checks)
        True
    """
    check_device(device)
    return tuple(checks.verify(onnx_file.read(choose(MODEL, file=Path(model), arch=None)), device=device))
