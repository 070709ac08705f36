"""A safetensors file with a JSON object and a SHA-256 checksum in its header. Pickle is not used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from netkit.core.errors import ModelError

CHECKSUM = "sha256"  # key in the JSON object; the checksum is of the file without this key


def content(tensors: Mapping[str, Tensor], key: str, header: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file with `tensors`, and with `header` as JSON under `key`; equal for equal arguments."""
    return _bytes(tensors, key, {**header, CHECKSUM: _checksum(tensors, key, header)})


def read(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a file, on the CPU, and its JSON object under `key`.

    Raises ModelError if it is not a safetensors file, has no `key`, or does not match its checksum.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError, TypeError, ValueError, RuntimeError):
        raise ModelError(f"{path}: is damaged, or not a .safetensors file") from None
    if key not in metadata:
        raise ModelError(f"{path}: has no {key} in its header")
    try:
        header = json.loads(metadata[key])
        intact = header.pop(CHECKSUM) == _checksum(tensors, key, header)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):  # not JSON, not an object, no checksum
        intact = False
    if not intact:
        raise ModelError(f"{path}: is damaged: its SHA-256 is not the one in its header")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], key: str, header: Mapping[str, Any]) -> str:
    return hashlib.sha256(_bytes(tensors, key, header)).hexdigest()


def _bytes(tensors: Mapping[str, Tensor], key: str, header: Mapping[str, Any]) -> bytes:
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()  # safetensors refuses tensors that share memory, as tied weights do
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if pointer in memory else tensor
        memory.add(pointer)
    return safetensors.torch.save(plain, {key: json.dumps(header)})  # the order of several keys would be random
