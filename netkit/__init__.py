"""Train a small CNN, export it to one ONNX file that is checked against PyTorch, and run that file anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netkit.api.calibrate import calibrate as calibrate
    from netkit.api.evaluate import evaluate as evaluate
    from netkit.api.export import export_model as export_model
    from netkit.api.load import load as load
    from netkit.api.train import train as train
    from netkit.api.verify import verify as verify

_MODULES = {  # public function -> its module, imported at the first access (PEP 562)
    "train": "netkit.api.train",
    "export_model": "netkit.api.export",
    "evaluate": "netkit.api.evaluate",
    "verify": "netkit.api.verify",
    "calibrate": "netkit.api.calibrate",
    "load": "netkit.api.load",
}

__all__ = ["__version__", "calibrate", "evaluate", "export_model", "load", "train", "verify"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from netkit.core.version import VERSION

        return VERSION
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'netkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
