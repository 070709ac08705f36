"""model.safetensors: the weights of a network, with the model card as JSON in the header."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import CardError, ModelError, UsageError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.core.runs import is_user_code
from netkit.nets.build import build
from netkit.nets.training import tensorfile

# a network may create parameters that it replaces or drops, such as the last layer of a network that it contains
MAX_SIZE_RATIO, MAX_EXTRA_BYTES = 4, 2**30  # of a network's parameters, relative to the tensors of its file


def save(path: Path, net: nn.Module, card: ModelCard) -> None:
    """Write weights and card to `path` atomically. Equal weights and cards give equal bytes."""
    write_atomic(path, content(net, card))


def content(net: nn.Module, card: ModelCard) -> bytes:
    """Return the bytes that `save` writes."""
    return tensorfile.content(net.state_dict(), METADATA_KEY, json.loads(card.to_json()))


def load(path: Path, *, trusted: str | None = None) -> tuple[nn.Module, ModelCard]:
    """Load the network in `path`, on the CPU and in evaluation mode, and its card.

    A file must not choose which code runs, so a network MODULE:CLASS is created only if its name is `trusted`.

    Raises:
        UsageError: the network is MODULE:CLASS and not trusted.
        CardError: the card is invalid.
        ModelError: the file is not safetensors, has no card or is damaged; or its tensors differ from those of the
            card's network in name, shape or dtype; or a value is NaN or infinite.
    """
    reject_pickle(path)
    try:
        weights, header = tensorfile.read(path, METADATA_KEY)
    except ModelError as exc:
        raise ModelError(
            f"{exc}; pass a file that 'netkit train' wrote; for imported weights, first run 'netkit train --weights'"
        ) from None
    try:
        card = ModelCard.from_json(json.dumps(header))
    except (CardError, RecursionError) as exc:
        raise CardError(f"{path}: {exc}") from None
    if is_user_code(card.arch) and card.arch != trusted:
        other = f", not {trusted}" if trusted else ""
        raise UsageError(
            f"{path}: the network {card.arch} is not part of netkit; to run its code, pass --arch {card.arch}{other}"
        )
    try:
        with _limited_parameters(path, sum(tensor.nbytes for tensor in weights.values())):
            net = build(card)
    except UsageError as exc:
        raise ModelError(f"{path}: {exc}") from None
    check_tensors(path, weights, net.state_dict())
    load_state(net, weights)
    return net.eval(), card


@contextmanager
def _limited_parameters(path: Path, file_bytes: int) -> Iterator[None]:
    """Raise ModelError if a network that is created in the context is far larger than the tensors in the file `path`.

    A damaged card can describe a network of any size. Memory that torch allocates for a parameter is not in use before
    the parameter is initialized, and it is registered before that.
    """
    error = ModelError(
        f"{path}: the card describes a network that is far larger than the {file_bytes:,} bytes of weights"
    )
    free_bytes = MAX_SIZE_RATIO * file_bytes + MAX_EXTRA_BYTES

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal free_bytes
        free_bytes -= 0 if is_lazy(parameter) else parameter.nbytes
        if free_bytes < 0:
            raise error

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError:  # torch cannot allocate that much
        raise error from None
    finally:
        hook.remove()


def reject_pickle(path: Path) -> None:
    """Raise ModelError if the file has the suffix of a pickle."""
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise ModelError(f"{path}: a pickle can run code; convert it to safetensors with 'netkit import {path}'")


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, fix: str = "") -> None:
    """Raise ModelError if `tensors` differ from `expected` in name, shape or dtype, or contain NaN or infinity.

    The message about a difference ends with `fix`.
    """
    missing, extra, problems = expected.keys() - tensors.keys(), tensors.keys() - expected.keys(), []
    if missing:
        problems.append(f"lacks {len(missing)} of the network's {len(expected)} tensors, such as {min(missing)!r}")
    if extra:
        problems.append(f"has {len(extra)} of {len(tensors)} tensors that the network lacks, such as {min(extra)!r}")
    if problems:
        raise ModelError(f"{path}: {' and '.join(problems)}{fix}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the network needs {expected[name].dtype} {tuple(expected[name].shape)}{fix}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: tensor {name!r} contains NaN or infinity")


def load_state(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load `tensors` into a network. Some modules of torchvision need the version that only a state dict contains."""
    state = net.state_dict()
    state.clear()  # except the versions
    state.update(tensors)
    net.load_state_dict(state)
