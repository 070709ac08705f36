"""Train a small CNN, export it to one ONNX file that verifies itself, and run that file anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netkit.api.load import load as load

_PUBLIC = {"load": "netkit.api.load"}  # name -> module; PEP 562: `import netkit` loads nothing else

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("netkit")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'netkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
