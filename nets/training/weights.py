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

from nets.errors import ModelError, UsageError
from nets.files import write_whole

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
    write_whole(out, safetensors.torch.save(tensors))
    return len(tensors)


def sha256(path: Path) -> str:
    """Of the file; UsageError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read: {fault.strerror}") from None


def put_into(net: nn.Module, path: Path) -> None:
    """Let `net` begin with the weights in the .safetensors file `path`.

    A last layer for another number of classes stays as it is, fresh. Raises ModelError where the file holds other
    tensors than the net has.
    """
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise ModelError(f"{path}: a pickle can run code when it is read; 'netkit import {path}' makes it safetensors")
    try:
        found = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError) as fault:
        raise ModelError(f"{path}: cannot be read as safetensors: {fault}") from None
    wanted = net.state_dict()
    found = {name: tensor for name, tensor in found.items() if name in wanted or not name.startswith(AUXILIARY)}
    if wanted.keys() != found.keys():
        lacking, surplus = sorted(wanted.keys() - found.keys())[:5], sorted(found.keys() - wanted.keys())[:5]
        raise ModelError(f"{path}: not the tensors of this net: lacks {lacking}, has besides {surplus}")
    others = [name for name, tensor in found.items() if tensor.shape != wanted[name].shape]
    head = [name for name in others if name.rpartition(".")[0] == list(wanted)[-1].rpartition(".")[0]]
    if others != head or any(found[name].shape[1:] != wanted[name].shape[1:] for name in head):
        name = next((each for each in others if each not in head), others[0])
        shapes = f"{tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        raise ModelError(f"{path}: tensor {name!r} is {shapes}: of a net for other images, or another net")
    if strange := [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(f"{path}: tensor {strange[0]!r} holds a NaN or an infinity")
    if head:
        logger.info("%s: its last layer is for %s classes: it begins anew", path, len(found[head[0]]))
    net.load_state_dict({**found, **{name: wanted[name] for name in head}})
