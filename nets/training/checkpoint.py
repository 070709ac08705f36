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
    """Write weights and card to `path`, whole or not at all; equal weights and cards give equal bytes."""
    write_atomic(path, content(net, card))


def content(net: nn.Module, card: ModelCard) -> bytes:
    """The bytes of that file."""
    return tensorfile.content(net.state_dict(), METADATA_KEY, json.loads(card.to_json()))


def load(path: Path, *, trusted: str | None = None) -> tuple[nn.Module, ModelCard]:
    """The network in `path`, on the CPU and in evaluation mode, and its card.

    A file must not choose what code runs, so a network MODULE:CLASS is created only if its name is `trusted`.

    Raises:
        UsageError: the network is MODULE:CLASS and not trusted.
        CardError: the card is invalid.
        ModelError: the file is not safetensors, has no card or is damaged; or its tensors are not exactly those of the
            card's network, by name, shape and dtype, or not all finite.
    """
    refuse_pickle(path)
    try:
        weights, header = tensorfile.read(path, METADATA_KEY)
    except ModelError as exc:
        raise ModelError(f"{exc}; train it again with 'netkit train'") from None
    try:
        card = ModelCard.from_json(json.dumps(header))
    except (CardError, RecursionError) as exc:
        raise CardError(f"{path}: {exc}") from None
    if is_user_code(card.arch) and card.arch != trusted:
        raise UsageError(f"{path}: its net is {card.arch}, code outside netkit: to run it, add --arch {card.arch}")
    try:
        with torch.device("meta"):  # shapes without memory: a damaged card can describe a network of any size
            expected = build(card).state_dict()
    except NetkitError as exc:
        raise ModelError(f"{path}: {exc}") from None
    refuse_misfits(path, expected, weights)
    net = build(card)
    net.load_state_dict(weights)
    return net.eval(), card


def refuse_pickle(path: Path) -> None:
    """Raise ModelError if the name of the file is that of a pickle."""
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise ModelError(f"{path}: a pickle can run code when it is read; 'netkit import {path}' makes it safetensors")


def refuse_misfits(path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError if the file's `tensors` differ from `expected` in name, shape or dtype, or are not finite."""
    if expected.keys() != tensors.keys():
        missing, extra = sorted(expected.keys() - tensors.keys())[:5], sorted(tensors.keys() - expected.keys())[:5]
        raise ModelError(f"{path}: not the tensors of this net: missing {missing}, unexpected {extra}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"this net needs {expected[name].dtype} {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: tensor {name!r} contains NaN or infinity")
