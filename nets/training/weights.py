"""Initial weights: convert a pickled state dict to safetensors, and load such a file into a network."""

import hashlib
import logging
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import ModelError, UsageError
from netkit.nets.training import checkpoint

logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts store a state dict
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception v3, which netkit creates without them
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # names that torch no longer allows

SAVE = "import a file of torch.save(network.state_dict(), FILE)"


def convert(source: Path, out: Path) -> int:
    """Convert the state dict in the pickle `source` to the safetensors file `out`; returns the number of tensors.

    torch loads the pickle with weights_only=True, which runs no code in it. Raises UsageError if the file does not
    exist or has the suffix .safetensors, ModelError if it contains no state dict.
    """
    if source.suffix == out.suffix:
        raise UsageError(f"{source}: is already a {out.suffix} file; pass it to 'netkit train --weights'")
    if source.is_dir():
        raise UsageError(f"{source}: is a folder; {SAVE}")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols other than 2
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{source}: no such file; {SAVE}") from None
    except Exception as exc:  # torch.load can raise anything for a file that is not a pickle
        if "GLOBAL" in str(exc) or "TorchScript" in str(exc):  # an object that is not allowed, or code
            raise ModelError(f"{source}: contains more than weights, such as a whole network; {SAVE}") from None
        raise ModelError(f"{source}: is damaged, or was not written by torch.save; {SAVE}") from None
    while isinstance(loaded, Mapping) and (wrapper := next((name for name in WRAPPERS if name in loaded), None)):
        loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(f"{source}: contains no state dict, a mapping from names to tensors; {SAVE}")
    tensors = {
        OLD_DENSENET.sub(r"\1\2", str(name).removeprefix("module.")): tensor.contiguous().clone()
        for name, tensor in loaded.items()
    }
    write_atomic(out, safetensors.torch.save(tensors))
    return len(tensors)


def load_into(net: nn.Module, path: Path) -> str:
    """Load the weights in the .safetensors file `path` into `net`; returns the file's SHA-256.

    If the last layer has another number of classes, the last layer of `net` keeps its random weights. Raises UsageError
    if the file cannot be read, ModelError if it is not safetensors or its tensors do not match the network.
    """
    checkpoint.reject_pickle(path)
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; pass weights of 'netkit train' or 'netkit import'") from None
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
    except safetensors.SafetensorError:
        fix = "convert a file of torch.save with 'netkit import'"
        raise ModelError(f"{path}: is damaged, or not a .safetensors file; {fix}") from None
    expected = net.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected or not name.startswith(AUXILIARY)}
    if head := _head_for_other_classes(expected, tensors):
        classes = len(tensors[head[0]])
        logger.info("%s: the last layer has %s classes and is not loaded; it starts with random weights", path, classes)
        tensors.update((name, expected[name]) for name in head)
    fix = "; pass the --arch, --channels and --image-size of these weights"
    checkpoint.check_tensors(path, tensors, expected, fix=fix)
    net.load_state_dict(tensors)
    return hashlib.sha256(content).hexdigest()


def _head_for_other_classes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the last layer's tensors if only their number of rows differs, else []."""
    layer = _last_layer(expected)
    names = [name for name in expected if name.rpartition(".")[0] == layer and name in tensors]
    shapes = [(expected[name].shape, tensors[name].shape) for name in names]
    return names if all(new and new != old and new[1:] == old[1:] for new, old in shapes) else []


def freeze_all_but_last_layer(net: nn.Module) -> None:
    """Exclude the weights of `net` from training, except those of its last layer."""
    layer = _last_layer(net.state_dict())
    for name, weight in net.named_parameters():
        weight.requires_grad_(name.rpartition(".")[0] == layer)


def _last_layer(names: Iterable[str]) -> str:
    """Return the name of the layer that has the last of the weights `names`."""
    return list(names)[-1].rpartition(".")[0]
