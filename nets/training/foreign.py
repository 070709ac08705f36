"""State dicts from other programs: reading them without running code, and the names and types of their tensors."""

import logging
import re
import warnings
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netkit.core.errors import ModelError, UsageError

logger = logging.getLogger(__name__)

# keys under which training scripts, Lightning and timm store a state dict; averaged weights come first
WRAPPERS = (
    "state_dict_ema", "model_ema", "params_ema", "state_dict", "model_state_dict", "model", "params", "net",
)  # fmt: skip
PREFIXES = ("module.", "model.", "net.")  # of the tensors of a network that is inside another module
COMPILED = "_orig_mod."  # torch.compile inserts this into the names, at any depth
COUNTER = ".num_batches_tracked"  # of batch norm; netkit does not use it, and older files lack it
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # names that torch no longer allows

SAVE = "import a file of torch.save(network.state_dict(), FILE)"


def read(path: Path) -> dict[str, Tensor]:
    """Read the state dict in the pickle `path`, in float32, with the names of the network inside its wrappers.

    torch loads the pickle with weights_only=True, which runs no code in it. Raises UsageError if the file does not
    exist, ModelError if it contains no state dict.
    """
    loaded = _unpickled(path)
    while isinstance(loaded, Mapping) and (wrappers := [name for name in WRAPPERS if _is_wrapper(loaded, name)]):
        if len(wrappers) > 1:
            logger.info("%s: using %s, not %s", path, wrappers[0], " or ".join(wrappers[1:]))
        loaded = loaded[wrappers[0]]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(f"{path}: contains no state dict, a mapping from names to tensors; {SAVE}")
    if special := [name for name, value in loaded.items() if value.is_quantized or value.layout != torch.strided]:
        raise ModelError(f"{path}: tensor {special[0]!r} is quantized or sparse; import a file of plain tensors")
    tensors = {bare: loaded[name].contiguous().clone() for bare, name in bare_names(loaded).items()}
    return converted(path, tensors, {})


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name, without what wrappers around the network add to all names, to the name itself."""
    bare = {OLD_DENSENET.sub(r"\1\2", str(name).replace(COMPILED, "")): name for name in names}
    while bare and (common := [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in bare)]):
        bare = {short.removeprefix(common[0]): name for short, name in bare.items()}
    return bare


def renamed(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a file the names that the network has in its state dict `expected`, where they match.

    If the network is a part of what was saved, as in a Lightning module with a loss, the other tensors are left out.
    Missing counters of batch norm are added.
    """
    wanted, by_name = bare_names(expected), {bare: tensors[name] for bare, name in bare_names(tensors).items()}
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
        # warnings are about pickle protocols other than 2; a Namespace has the options of a training script
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {SAVE}") from None
    except Exception as exc:  # torch.load can raise anything for a file that is not a pickle
        if name := re.search(r"GLOBAL ([\w.]+)", str(exc)):
            raise ModelError(f"{path}: contains more than weights: loading {name[1]} could run code; {SAVE}") from None
        if "TorchScript" in str(exc):
            raise ModelError(f"{path}: contains more than weights: it is a TorchScript program; {SAVE}") from None
        raise ModelError(f"{path}: is damaged, or was not written by torch.save; {SAVE}") from None


def _is_wrapper(mapping: Mapping[Any, Any], name: str) -> bool:
    return isinstance(mapping.get(name), Mapping) and bool(mapping[name])
