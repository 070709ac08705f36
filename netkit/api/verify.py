"""netkit.verify: whether a model still is, and computes, what its certificate says."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.core.runs import MODEL, choose
from netkit.infer.model import onnx_file
from netkit.infer.model import verify as checks
from netkit.infer.model.verify import Finding


def verify(model: str | Path, *, device: str = "auto") -> tuple[Finding, ...]:
    """Check that a model is unchanged since it was certified, and that its outputs on this machine are as certified.

    Args:
        model: An .onnx file that netkit exported.
        device: `cpu`, `cuda`, or `auto` for each device that works here.

    Returns:
        One finding for each check. The model passes if all of them are `right`.

    Raises:
        UsageError: There is no such file or device name.
        ModelError: The file is not an ONNX model, or carries no certificate.
        DeviceError: The device cannot be used.

    Example:
        >>> findings = netkit.verify("runs/residual/model.onnx", device="cpu")
        >>> all(finding.right for finding in findings)
        True
    """
    check_device(device)
    return tuple(checks.verify(onnx_file.read(choose(MODEL, file=Path(model), arch=None)), device=device))
