"""Initial weights: import a state dict as a safetensors file, and load such a file into a network."""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import ModelError, UsageError
from netkit.core.runs import required_channels
from netkit.nets.build import create, default_size
from netkit.nets.training import checkpoint, foreign

logger = logging.getLogger(__name__)

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception v3, which netkit creates without them
ANY_CLASSES = 2  # of a network to which weights are compared; the last layer may have another number of classes


def convert(source: Path, out: Path, *, arch: str | None = None, size: tuple[int, int] | None = None) -> int:
    """Convert the state dict in the pickle `source` to the safetensors file `out`; returns the number of tensors.

    With `arch`, the tensors must be those of this network, for images of `size` with 1 or 3 channels and for any number
    of classes, and get its names. The default size is timm's for its networks, 224x224 for torchvision's, and 28x28 for
    others. No code in the pickle runs.

    Raises UsageError if the file does not exist or has the suffix .safetensors, or if the network cannot be created;
    ModelError if the file contains no state dict, or that of another network. Nothing is written then.
    """
    if source.suffix == out.suffix:
        raise UsageError(f"{source}: is already a {out.suffix} file; pass it to 'netkit train --weights'")
    tensors = foreign.read(source)
    if arch:
        tensors = _as_named_by(arch, source, tensors, size or default_size(arch))
    write_atomic(out, safetensors.torch.save(tensors))
    return len(tensors)


def _as_named_by(arch: str, path: Path, tensors: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the tensors with the names of the network. Raises ModelError if they are not those of the network."""
    first_kernel = next((tensor for tensor in tensors.values() if tensor.ndim == 4), None)
    likely, other = (1, 3) if first_kernel is not None and first_kernel.shape[1] == 1 else (3, 1)
    problems = []
    for channels in (required,) if (required := required_channels(arch)) else (likely, other):
        expected = create(arch, channels=channels, classes=ANY_CLASSES, size=size).state_dict()
        try:
            return _matched(path, tensors, expected, fix="; pass the --arch and --image-size of these weights")[0]
        except ModelError as exc:
            problems.append(exc)
    raise problems[0]


def load_into(net: nn.Module, path: Path) -> str:
    """Load the weights in the .safetensors file `path` into `net`; returns the file's SHA-256.

    If the last layer has another number of classes, the last layer of `net` keeps its random weights. Names may have
    the prefixes that wrappers add, and weights any floating-point type. Raises UsageError if the file cannot be read,
    ModelError if it is not safetensors or its tensors do not match the network.
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
    fix = "; pass the --arch, --channels and --image-size of these weights"
    tensors, head = _matched(path, tensors, expected, fix=fix)
    if head:
        classes = len(tensors[head[0]])
        logger.info("%s: the last layer has %s classes and is not loaded; it starts with random weights", path, classes)
    checkpoint.load_state(net, tensors | {name: expected[name] for name in head})
    return hashlib.sha256(content).hexdigest()


def _matched(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, fix: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by the names of the network, and the names of a last layer for other classes, else [].

    Raises ModelError, with `fix`, if the tensors are not those of the network.
    """
    named = foreign.converted(path, foreign.renamed(path, tensors, expected), expected)
    named = {name: tensor for name, tensor in named.items() if name in expected or not name.startswith(AUXILIARY)}
    head = _head_for_other_classes(expected, named)
    checkpoint.check_tensors(path, named | {name: expected[name] for name in head}, expected, fix=fix)
    return named, head


def _head_for_other_classes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the last layer's tensors if only their number of rows differs, else []."""
    layer = _last_layer(expected)
    names = [name for name in expected if name.rpartition(".")[0] == layer and name in tensors]
    shapes = [(expected[name].shape, tensors[name].shape) for name in names]
    return names if all(new and new != old and new[1:] == old[1:] for new, old in shapes) else []


def freeze_all_but_last_layer(net: nn.Module) -> None:
    """Exclude the weights of `net` from training, except those of its last layer."""
    layer = _last_layer(net.state_dict())
    for name, weight in net.named_parameters(remove_duplicate=False):  # the last layer may have another name, too
        weight.requires_grad_(name.rpartition(".")[0] == layer)


def _last_layer(names: Iterable[str]) -> str:
    """Return the name of the layer that has the last of the weights `names`."""
    return list(names)[-1].rpartition(".")[0]


def shared_parameters(net: nn.Module) -> set[str]:
    """Return the names of the parameters that share memory with another parameter. A tied one is a single parameter."""
    names: dict[int, list[str]] = {}
    for name, weight in net.named_parameters():
        names.setdefault(weight.untyped_storage().data_ptr(), []).append(name)
    return {name for sharing in names.values() if len(sharing) > 1 for name in sharing}
