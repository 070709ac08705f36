"""model.safetensors: the weights of a network, with the model card as JSON in the header."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import CardError, ModelError, NetkitError, UsageError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.core.runs import is_user_code
from netkit.nets.build import build
from netkit.nets.training import tensorfile


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
        with torch.device("meta"):  # allocates no memory: a damaged card can describe a network of any size
            expected = build(card).state_dict()
    except NetkitError as exc:
        raise ModelError(f"{path}: {exc}") from None
    check_tensors(path, weights, expected)
    net = build(card)
    net.load_state_dict(weights)
    return net.eval(), card


def reject_pickle(path: Path) -> None:
    """Raise ModelError if the file has the suffix of a pickle."""
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise ModelError(f"{path}: a pickle can run code; convert it to safetensors with 'netkit import {path}'")


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, fix: str = "") -> None:
    """Raise ModelError if `tensors` differ from `expected` in name, shape or dtype, or contain NaN or infinity.

    The message about a difference ends with `fix`.
    """
    for names, problem in (
        (sorted(expected.keys() - tensors.keys()), f"lacks {{}} of the network's {len(expected)} tensors"),
        (sorted(tensors.keys() - expected.keys()), f"has {{}} of {len(tensors)} tensors that the network lacks"),
    ):
        if names:
            raise ModelError(f"{path}: {problem.format(len(names))}, such as {names[0]!r}{fix}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the network needs {expected[name].dtype} {tuple(expected[name].shape)}{fix}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: tensor {name!r} contains NaN or infinity")
