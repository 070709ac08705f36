"""model.safetensors: a net's weights, with the card as JSON in the header. Nothing is ever pickled or unpickled."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nets.build import build
from nets.card import METADATA_KEY, ModelCard
from nets.errors import CardError, ModelError, NetkitError
from nets.files import write_whole


def save(path: Path, net: nn.Module, card: ModelCard) -> None:
    """Write the net's weights and the card to `path`, whole or not at all; the same net gives the same bytes."""
    write_whole(path, content(net, card))


def content(net: nn.Module, card: ModelCard) -> bytes:
    """The bytes of that file."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in net.state_dict().items()}
    # one key alone: safetensors writes several in an order of chance
    return safetensors.torch.save(weights, {METADATA_KEY: card.to_json()})


def load(path: Path) -> tuple[nn.Module, ModelCard]:
    """The net in `path`, on the CPU and in evaluation mode, and its card.

    Raises ModelError where the file is no safetensors file, or its tensors are not exactly those that the card's net
    wants, by name, shape and dtype, or not all finite; CardError where it has no card.
    """
    if path.suffix in (".pt", ".pth", ".pkl"):
        raise ModelError(f"{path}: a pickle can run code when it is read; netkit reads .safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError) as fault:
        raise ModelError(f"{path}: cannot be read as safetensors: {fault}") from None
    if METADATA_KEY not in header:
        raise CardError(f"{path}: no netkit card in its header; train it anew with 'netkit train'")
    try:
        card = ModelCard.from_json(header[METADATA_KEY])
    except CardError as fault:
        raise CardError(f"{path}: {fault}") from None
    try:
        with torch.device("meta"):  # shapes without memory: a damaged card can ask for any size
            wanted = build(card).state_dict()
    except NetkitError as fault:
        raise ModelError(f"{path}: {fault}") from None
    _refuse_misfits(path, wanted, weights)
    net = build(card)
    net.load_state_dict(weights)
    return net.eval(), card


def _refuse_misfits(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    if wanted.keys() != found.keys():
        lacking, surplus = sorted(wanted.keys() - found.keys())[:5], sorted(found.keys() - wanted.keys())[:5]
        raise ModelError(f"{path}: not the tensors of its card's net: lacks {lacking}, has besides {surplus}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise ModelError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"its card's net wants {wanted[name].dtype} {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: tensor {name!r} holds a NaN or an infinity")
