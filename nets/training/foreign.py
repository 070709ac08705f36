"""State dicts from other programs: reading them without running code, and the names and types of their tensors."""

import logging
import re
import reprlib
import warnings
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netkit.core.errors import ModelError, UsageError
from netkit.nets.training import file_kinds
from netkit.nets.training.file_kinds import SAVE

logger = logging.getLogger(__name__)

# keys under which training scripts, Lightning and timm store a state dict; averaged weights come first
WRAPPERS = (
    "state_dict_ema", "model_ema", "params_ema", "state_dict", "model_state_dict", "model", "params", "net",
)  # fmt: skip
PREFIXES = ("module.", "model.", "net.")  # of the tensors of a network that is inside another module
MAX_WRAPPERS = 8  # around a state dict; a mapping can contain itself
COMPILED = "_orig_mod."  # torch.compile inserts this into the names, at any depth
AVERAGES = "n_averaged"  # a counter that torch's AveragedModel adds to the tensors of the network
COUNTER = ".num_batches_tracked"  # of batch norm; netkit does not use it, and older files lack it
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # names that torch no longer allows

# the types that netkit stores or converts
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
)  # fmt: skip
RESERVED_NAME = "__metadata__"  # in a .safetensors file
MAX_LISTED_KEYS = 5  # in a message

# what training scripts store with the weights: options, paths and NumPy scalars; they run no code of the file
SCALAR = np.float64().__reduce__()[0]  # the function that unpickles NumPy scalars; NumPy 2 moved it
HARMLESS: list[Any] = [
    Namespace, PosixPath, PurePosixPath, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    SCALAR, (SCALAR, "numpy.core.multiarray.scalar"),
]  # fmt: skip


def read(path: Path) -> dict[str, Tensor]:
    """Read the state dict in the pickle `path`, in float32, with the names of the network inside its wrappers.

    torch loads the pickle with weights_only=True, which runs no code in it. Raises UsageError if the file does not
    exist, ModelError if it contains no state dict.
    """
    content = _unpickled(path)
    for _ in range(MAX_WRAPPERS):
        content = _unwrapped(path, content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: contains no state dict, a mapping from names to tensors{_keys(content)}; {SAVE}")
    for name, value in content.items():
        if problem := _problem(name, value, max_bytes=path.stat().st_size):
            raise ModelError(f"{path}: {problem}; {SAVE}")
    names = bare_names(path, (name for name in content if name != AVERAGES))
    return converted(path, {bare: content[name].contiguous().clone() for bare, name in names.items()}, {})


def bare_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Map each name, without the parts that wrappers around the network add, to the name in the file.

    Raises ModelError if two names are equal without these parts.
    """
    bare: dict[str, str] = {}
    for name in names:
        short = OLD_DENSENET.sub(r"\1\2", name.replace(COMPILED, ""))
        if other := bare.get(short):
            raise ModelError(f"{path}: both {other!r} and {name!r} are the tensor {short!r} of the network; remove one")
        bare[short] = name
    while bare and (common := [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in bare)]):
        bare = {short.removeprefix(common[0]): name for short, name in bare.items()}
    return bare


def renamed(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a file the names that the network has in its state dict `expected`, where they match.

    If the network is a part of what was saved, as in a Lightning module with a loss, the other tensors are left out.
    Missing counters of batch norm are added.
    """
    wanted = bare_names(path, expected)
    by_name = {bare: tensors[name] for bare, name in bare_names(path, tensors).items()}
    needed = {bare for bare in wanted if not bare.endswith(COUNTER)}
    for prefix in PREFIXES:
        part = {name.removeprefix(prefix): tensor for name, tensor in by_name.items() if name.startswith(prefix)}
        if needed <= part.keys() and not needed <= by_name.keys():
            others = [name for name in by_name if not name.startswith(prefix)]
            logger.info("%s: ignoring %s tensors outside of %r, such as %r", path, len(others), prefix, others[0])
            by_name = part
    counters = {name: expected[name].clone() for bare, name in wanted.items() if bare.endswith(COUNTER)}
    return counters | {wanted.get(bare, bare): tensor for bare, tensor in by_name.items()}


def converted(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the floating-point tensors of a file to their types in `expected`, by default float32, and log it."""
    result, changes = dict(tensors), set()
    for name, tensor in tensors.items():
        dtype = expected[name].dtype if name in expected else torch.float32
        if tensor.is_floating_point() and dtype.is_floating_point and tensor.dtype != dtype:
            result[name] = tensor.to(dtype)
            changes.add(f"{tensor.dtype} to {dtype}".replace("torch.", ""))
    if changes:
        logger.info("%s: converted weights from %s", path, " and from ".join(sorted(changes)))
    return result


def _unpickled(path: Path) -> Any:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; {SAVE}")
    try:
        # warnings are about pickle protocols other than 2
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {SAVE}") from None
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror or exc}") from None
    except Exception as exc:  # torch.load can raise anything for a file that is not a pickle
        if name := re.search(r"GLOBAL ([\w.]+)", str(exc)):
            raise ModelError(f"{path}: contains more than weights: loading {name[1]} could run code; {SAVE}") from None
        if "TorchScript" in str(exc):
            raise ModelError(f"{path}: contains more than weights: it is a TorchScript program; {SAVE}") from None
        raise ModelError(f"{path}: {file_kinds.problem(path)}") from None


def _unwrapped(path: Path, content: Any) -> Any:
    """Return the mapping in the first of WRAPPERS, or `content` if it has none."""
    if not isinstance(content, Mapping):
        return content
    wrappers = [name for name in WRAPPERS if isinstance(content.get(name), Mapping) and content[name]]
    if len(wrappers) > 1:
        logger.info("%s: using %s, not %s", path, wrappers[0], " or ".join(wrappers[1:]))
    return content[wrappers[0]] if wrappers else content


def _keys(content: Any) -> str:
    """Return what a file contains instead of a state dict, for a message."""
    if not isinstance(content, Mapping):
        return f", but an object of type {type(content).__name__}"
    names = [reprlib.repr(name) for name in content]
    more = ", ..." if len(names) > MAX_LISTED_KEYS else ""
    return f"; it has the keys {', '.join(names[:MAX_LISTED_KEYS])}{more}" if names else ", but an empty mapping"


def _problem(name: Any, value: Any, *, max_bytes: int) -> str | None:
    """Return why `name` and `value` cannot be stored as a tensor of float32 or integers; None if they can."""
    label = f"tensor {name!r}"
    if not isinstance(name, str) or name == RESERVED_NAME or not name.isprintable():
        return f"{name!r} cannot be the name of a tensor"
    if not isinstance(value, Tensor):
        return f"{name!r} is of type {type(value).__name__}, not a tensor"
    if value.is_meta:
        return f"{label} is on the device meta, so it has no values"
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return f"{label} is quantized, sparse or nested, not a plain tensor"
    if value.dtype not in DTYPES:
        return f"{label} is {str(value.dtype).removeprefix('torch.')}, which netkit cannot convert to float32"
    if value.nbytes > max(max_bytes, value.untyped_storage().nbytes()):
        return f"{label} repeats its values to {value.nbytes:,} bytes, more than the file has"
    return None
