"""Initial weights from elsewhere: a state dict converted to safetensors, and such a file loaded into a network."""

import hashlib
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import ModelError, UsageError, first_line
from netkit.nets.training import checkpoint

logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts keep a state dict
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception v3, which netkit creates without them
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # names that torch no longer allows


def convert(source: Path, out: Path) -> int:
    """Write the state dict in the pickle `source` to `out` as safetensors; returns the number of tensors.

    torch reads the pickle with weights_only=True, so that no code in it runs. Raises UsageError if there is no such
    file, ModelError if it holds no state dict.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that torch may fail to read
            found = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{source}: no such file") from None
    except Exception as exc:  # torch.load can raise anything for a file that is not a pickle
        message = f"cannot be read as a state dict without running code in it: {first_line(exc)}"
        raise ModelError(f"{source}: {message}") from None
    while isinstance(found, Mapping) and (wrapper := next((name for name in WRAPPERS if name in found), None)):
        found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ModelError(f"{source}: holds no state dict, which maps names to tensors")
    tensors = {
        OLD_DENSENET.sub(r"\1\2", str(name).removeprefix("module.")): tensor.contiguous().clone()
        for name, tensor in found.items()
    }
    write_atomic(out, safetensors.torch.save(tensors))
    return len(tensors)


def load_into(net: nn.Module, path: Path) -> str:
    """Load the weights in the .safetensors file `path` into `net`; returns the file's SHA-256.

    If the last layer is for another number of classes, that of `net` keeps its fresh weights. Raises UsageError if the
    file cannot be read, ModelError if it is not safetensors or holds other tensors than the network.
    """
    checkpoint.refuse_pickle(path)
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
    except safetensors.SafetensorError as exc:
        raise ModelError(f"{path}: cannot be read as safetensors: {exc}") from None
    expected = net.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected or not name.startswith(AUXILIARY)}
    if head := _head_for_other_classes(expected, tensors):
        classes = len(tensors[head[0]])
        logger.info("%s: its last layer is for %s classes and is not used; it starts fresh", path, classes)
        tensors.update((name, expected[name]) for name in head)
    checkpoint.refuse_misfits(path, expected, tensors)
    net.load_state_dict(tensors)
    return hashlib.sha256(content).hexdigest()


def _head_for_other_classes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the last layer's tensors if they differ in the number of rows and in nothing else, else []."""
    layer = list(expected)[-1].rpartition(".")[0]
    names = [name for name in expected if name.rpartition(".")[0] == layer and name in tensors]
    shapes = [(expected[name].shape, tensors[name].shape) for name in names]
    return names if all(new and new != old and new[1:] == old[1:] for new, old in shapes) else []
