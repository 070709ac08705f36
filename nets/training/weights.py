"""Weights to begin with: somebody's state dict made a .safetensors file, and such a file put into a net."""

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
from netkit.core.errors import ModelError, UsageError
from netkit.nets.training import checkpoint

logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model")  # what training scripts keep weights under
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception v3, which netkit builds without
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # names that no module can have any more


def convert(source: Path, out: Path) -> int:
    """Write the state dict in the pickle `source` to `out`, as safetensors; gives how many tensors.

    torch reads it with weights_only=True, so that no code in it is run. Raises ModelError where it holds no state dict.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that it might not read
            found = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{source}: no such file") from None
    except Exception as fault:  # whatever comes of what is no pickle of torch's
        told = str(fault).partition("\n")[0]
        raise ModelError(f"{source}: cannot be read as a state dict without running code in it: {told}") from None
    while isinstance(found, Mapping) and (wrapper := next((name for name in WRAPPERS if name in found), None)):
        found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ModelError(f"{source}: holds no state dict: no names with a tensor each")
    tensors = {
        OLD_DENSENET.sub(r"\1\2", str(name).removeprefix("module.")): tensor.contiguous().clone()
        for name, tensor in found.items()
    }
    write_atomic(out, safetensors.torch.save(tensors))
    return len(tensors)


def put_into(net: nn.Module, path: Path) -> str:
    """Let `net` begin with the weights in the .safetensors file `path`; gives the file's SHA-256.

    A last layer for another number of classes stays as it is, fresh. Raises UsageError where there is no such file,
    ModelError where it holds other tensors than the net has.
    """
    checkpoint.refuse_pickle(path)
    try:
        content = path.read_bytes()
        found = safetensors.torch.load(content)
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read: {fault.strerror}") from None
    except safetensors.SafetensorError as fault:
        raise ModelError(f"{path}: cannot be read as safetensors: {fault}") from None
    wanted = net.state_dict()
    found = {name: tensor for name, tensor in found.items() if name in wanted or not name.startswith(AUXILIARY)}
    if head := _of_other_classes(wanted, found):
        logger.info("%s: its last layer is for %s classes: it begins anew", path, len(found[head[0]]))
        found.update((name, wanted[name]) for name in head)
    checkpoint.refuse_misfits(path, wanted, found)
    net.load_state_dict(found)
    return hashlib.sha256(content).hexdigest()


def _of_other_classes(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """The names in the last layer, where it differs in its number of rows and in nothing else."""
    layer = list(wanted)[-1].rpartition(".")[0]
    names = [name for name in wanted if name.rpartition(".")[0] == layer and name in found]
    shapes = [(wanted[name].shape, found[name].shape) for name in names]
    return names if all(now and now != before and now[1:] == before[1:] for now, before in shapes) else []
