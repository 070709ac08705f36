"""model.safetensors: a net's weights, with the card as JSON in the header."""

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
    """Write the net's weights and the card to `path`, whole or not at all; the same net gives the same bytes."""
    write_atomic(path, content(net, card))


def content(net: nn.Module, card: ModelCard) -> bytes:
    """The bytes of that file."""
    return tensorfile.content(net.state_dict(), METADATA_KEY, json.loads(card.to_json()))


def load(path: Path, *, trusted: str | None = None) -> tuple[nn.Module, ModelCard]:
    """The net in `path`, on the CPU and in evaluation mode, and its card.

    A net MODULE:CLASS is built only where its name is `trusted`, for a file must not choose what code is run; else
    UsageError. Raises ModelError where the file is no safetensors file, has no card or was damaged, or its tensors are
    not exactly those that the card's net wants, by name, shape and dtype, or not all finite; CardError where the card
    is wrong.
    """
    refuse_pickle(path)
    try:
        weights, about = tensorfile.read(path, METADATA_KEY)
    except ModelError as fault:
        raise ModelError(f"{fault}; train it anew with 'netkit train'") from None
    try:
        card = ModelCard.from_json(json.dumps(about))
    except (CardError, RecursionError) as fault:
        raise CardError(f"{path}: {fault}") from None
    if is_user_code(card.arch) and card.arch != trusted:
        raise UsageError(f"{path}: its net is {card.arch}, code outside netkit: to run it, add --arch {card.arch}")
    try:
        with torch.device("meta"):  # shapes without memory: a damaged card can ask for any size
            wanted = build(card).state_dict()
    except NetkitError as fault:
        raise ModelError(f"{path}: {fault}") from None
    refuse_misfits(path, wanted, weights)
    net = build(card)
    net.load_state_dict(weights)
    return net.eval(), card


def refuse_pickle(path: Path) -> None:
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise ModelError(f"{path}: a pickle can run code when it is read; 'netkit import {path}' makes it safetensors")


def refuse_misfits(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise ModelError where `found` are not the tensors `wanted`, by name, shape and dtype, or are not all finite."""
    if wanted.keys() != found.keys():
        lacking, surplus = sorted(wanted.keys() - found.keys())[:5], sorted(found.keys() - wanted.keys())[:5]
        raise ModelError(f"{path}: not the tensors of this net: lacks {lacking}, has besides {surplus}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise ModelError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"this net wants {wanted[name].dtype} {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: tensor {name!r} holds a NaN or an infinity")
