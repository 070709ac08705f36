"""Tensors and what is said about them, in one safetensors file, with the SHA-256 of both, so that damage is found.

Nothing is ever pickled or unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from netkit.core.errors import ModelError

SUM = "sha256"  # beside what is said: of the same file without it


def content(tensors: Mapping[str, Tensor], key: str, about: Mapping[str, Any]) -> bytes:
    """The bytes of the file: the tensors, and under `key` in the header `about` as JSON; the same for the same."""
    return _bytes(tensors, key, {**about, SUM: _sum(tensors, key, about)})


def read(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in the file `path`, on the CPU, and what it says about them.

    Raises ModelError where it is no safetensors file, says nothing under `key`, or was changed since it was written.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError, TypeError, ValueError, RuntimeError) as fault:
        raise ModelError(f"{path}: cannot be read as safetensors: {fault}") from None
    if key not in header:
        raise ModelError(f"{path}: no {key} in its header")
    try:
        about = json.loads(header[key])
        whole = about.pop(SUM) == _sum(tensors, key, about)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):  # no JSON, no object, or no sum
        whole = False
    if not whole:
        raise ModelError(f"{path}: damaged: not what was written, by its SHA-256")
    return tensors, about


def _sum(tensors: Mapping[str, Tensor], key: str, about: Mapping[str, Any]) -> str:
    return hashlib.sha256(_bytes(tensors, key, about)).hexdigest()


def _bytes(tensors: Mapping[str, Tensor], key: str, about: Mapping[str, Any]) -> bytes:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, {key: json.dumps(about)})  # several keys would come in an order of chance
