"""model.safetensors: weights survive a round trip; damaged, foreign and unsafe files are rejected."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from netkit.core.errors import ModelError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.training import checkpoint, tensorfile


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_saved_network_and_card_load_unchanged(tmp_path: Path, card: ModelCard, arch: str) -> None:
    card = replace(card, arch=arch)
    net = build(card)
    net.to(memory_format=torch.channels_last)
    with torch.no_grad():
        net(torch.randn(8, 1, 28, 28))  # updates the batch norm statistics
    checkpoint.save(tmp_path / "model.safetensors", net, card)
    loaded, loaded_card = checkpoint.load(tmp_path / "model.safetensors")
    assert loaded_card == card
    assert not loaded.training
    assert loaded.state_dict().keys() == net.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_file_is_plain_safetensors_with_the_card_in_its_header(tmp_path: Path, card: ModelCard) -> None:
    net = build(card)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, net, card)
    arrays = safetensors.numpy.load_file(path)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: tuple(tensor.shape) for name, tensor in net.state_dict().items()
    }
    with safetensors.safe_open(path, framework="np") as file:
        assert ModelCard.from_json(file.metadata()["netkit.card"]) == card


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__delitem__(name)


def with_(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__setitem__(name, change(weights.get(name, torch.zeros(1))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("conv2.bias"), r"lacks 1 of the network's \d+ tensors, such as 'conv2.bias'$"),
        (with_("extra", lambda t: t), r"has 1 of \d+ tensors that the network lacks, such as 'extra'$"),
        (
            lambda weights: weights.update(other=weights.pop("conv2.bias")),
            r"lacks 1 of .*, such as 'conv2.bias' and has 1 of \d+ tensors that the network lacks, such as 'other'$",
        ),
        (with_("linear.bias", lambda t: t[:9].clone()), r"'linear.bias' is torch.float32 \(9,\).* needs .*\(10,\)"),
        (with_("linear.bias", lambda t: t.double()), r"'linear.bias' is torch.float64 \(10,\)"),
        (with_("conv1.weight", lambda t: t / 0), "'conv1.weight' contains NaN or infinity"),
        (with_("conv1.weight", lambda t: t * float("nan")), "'conv1.weight' contains NaN or infinity"),
    ],
)
def test_tensors_that_do_not_match_the_cards_network_are_rejected(
    tmp_path: Path, card: ModelCard, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    weights = build(card).state_dict()
    change(weights)
    path = tmp_path / "model.safetensors"
    path.write_bytes(tensorfile.content(weights, METADATA_KEY, json.loads(card.to_json())))
    with pytest.raises(ModelError, match=message):
        checkpoint.load(path)


def test_weights_without_a_card_are_rejected(tmp_path: Path, card: ModelCard) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(build(card).state_dict(), path)
    with pytest.raises(ModelError, match=r"no netkit\.card in its header; pass a file that 'netkit train' wrote"):
        checkpoint.load(path)


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch.__get__(self.path), ()  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pkl", "model.safetensors"])
def test_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(ModelError, match=r"a pickle can run code|is damaged, or not a \.safetensors file"):
        checkpoint.load(tmp_path / name)
    assert not canary.exists()
    pickle.loads((tmp_path / name).read_bytes())
    assert canary.exists()  # the pickle does run code


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}" + b"\0" * 8])
def test_other_file_formats_are_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        checkpoint.load(path)


def test_truncated_file_is_rejected(tmp_path: Path, card: ModelCard) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, build(card), card)
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"is damaged, or not a \.safetensors file"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "incepton"}, "unknown architecture 'incepton': did you mean 'inception'"),
        ({"height": 3}, "residual cannot take 3x28 images"),
        (
            {"height": 1024, "width": 1024, "labels": tuple(map(str, range(2000)))},  # over 1 GiB of weights
            "the card describes a network that is far larger than the .* bytes of weights$",
        ),
        (
            {"height": 4096, "width": 4096, "labels": tuple(map(str, range(300_000)))},  # no machine has this memory
            "the card describes a network that is far larger than the .* bytes of weights$",
        ),
    ],
)
def test_error_for_a_damaged_card_names_the_file_and_does_not_allocate_the_network(
    tmp_path: Path, card: ModelCard, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, build(card), replace(card, **change))
    peak_kib = getrusage(RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=rf"model\.safetensors: .*{message}"):
        checkpoint.load(path)
    assert getrusage(RUSAGE_SELF).ru_maxrss - peak_kib < 2**18
