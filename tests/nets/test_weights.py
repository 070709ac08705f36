"""Initial weights from files: conversion to safetensors, loading, and rejected files."""

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from netkit.core.errors import ModelError, UsageError
from netkit.nets.build import ARCHITECTURES, create
from netkit.nets.residual import ResidualNet
from netkit.nets.training import weights


def convert(tmp_path: Path, saved: object) -> dict[str, Tensor]:
    torch.save(saved, tmp_path / "net.pth")
    weights.convert(tmp_path / "net.pth", tmp_path / "net.safetensors")
    return safetensors.torch.load_file(tmp_path / "net.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_state_dict_is_converted_with_and_without_a_wrapper(tmp_path: Path, wrap: str | None) -> None:
    state = ResidualNet(1, 10, 28).state_dict()
    assert same(convert(tmp_path, {wrap: state, "epoch": 3} if wrap else state), state)


def test_prefix_of_data_parallel_names_is_removed(tmp_path: Path) -> None:
    net = ResidualNet(1, 10, 28)
    state = nn.Sequential()
    state.add_module("module", net)
    assert same(convert(tmp_path, state.state_dict()), net.state_dict())


def test_old_densenet_names_are_converted(tmp_path: Path) -> None:
    net = torchvision.models.densenet121(num_classes=3)
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for name, value in net.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert same(convert(tmp_path, old), net.state_dict())


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"weight": Canary(tmp_path / "canary")}))
    torch.save({"weight": Canary(tmp_path / "canary")}, tmp_path / "archive.pth")
    for name, problem in (("pickle.pth", "not written by torch.save"), ("archive.pth", "contains more than weights")):
        with pytest.raises(ModelError, match=rf"{problem}.*; import a file of torch\.save\(network\.state_dict\(\)"):
            weights.convert(tmp_path / name, tmp_path / "out.safetensors")
    assert not (tmp_path / "canary").exists() and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("saved", [{}, {"epoch": 1}, [1, 2], torch.zeros(3)])
def test_file_without_a_state_dict_is_rejected(tmp_path: Path, saved: object) -> None:
    with pytest.raises(ModelError, match="contains no state dict"):
        convert(tmp_path, saved)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but such files exist
def test_whole_networks_are_rejected(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    torch.save(net, tmp_path / "whole.pth")
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3)), tmp_path / "script.pth")
    for name in ("whole.pth", "script.pth"):
        with pytest.raises(ModelError, match=rf"{name}: contains more than weights, such as a whole network; import"):
            weights.convert(tmp_path / name, tmp_path / "out.safetensors")


def test_converted_files_text_files_folders_and_missing_files_are_rejected(tmp_path: Path) -> None:
    converted = save(tmp_path, ResidualNet(1, 10, 28).state_dict())
    before = converted.read_bytes()
    with pytest.raises(UsageError, match=r"is already a \.safetensors file; pass it to 'netkit train --weights'"):
        weights.convert(converted, converted)
    assert converted.read_bytes() == before
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ModelError, match=r"is damaged, or was not written by torch\.save"):
        weights.convert(tmp_path / "text.pth", tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="is a folder; import a file of "):
        weights.convert(tmp_path, tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="no such file; import a file of "):
        weights.convert(tmp_path / "none.pth", tmp_path / "out.safetensors")


def save(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_network_starts_with_the_weights_in_the_file(tmp_path: Path) -> None:
    source, net = ResidualNet(1, 10, 28), ResidualNet(1, 10, 28)
    weights.load_into(net, save(tmp_path, source.state_dict()))
    assert same(net.state_dict(), source.state_dict())


def test_last_layer_for_other_classes_stays_random(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, net = (torchvision.models.resnet18(num_classes=classes) for classes in (1000, 3))
    fresh = {name: value.clone() for name, value in net.state_dict().items()}
    with caplog.at_level("INFO"):
        weights.load_into(net, save(tmp_path, source.state_dict()))
    for name, value in net.state_dict().items():
        assert torch.equal(value, (fresh if name.startswith("fc.") else source.state_dict())[name])
    assert "the last layer has 1000 classes and is not loaded; it starts with random weights" in caplog.text


def test_auxiliary_heads_are_ignored(tmp_path: Path) -> None:
    source = torchvision.models.googlenet(num_classes=4, aux_logits=True, init_weights=False)
    net = torchvision.models.googlenet(num_classes=4, aux_logits=False, init_weights=False)
    weights.load_into(net, save(tmp_path, source.state_dict()))
    assert torch.equal(net.fc.weight, source.fc.weight)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            ResidualNet(3, 10, 28),
            r"tensor .*weight' is torch.float32 \(\d+, 3, 5, 5\), the network needs torch.float32 \(\d+, 1, 5, 5\); "
            "pass the --arch, --channels and --image-size of these weights",
        ),
        (nn.Linear(3, 2), r"lacks \d+ of the network's \d+ tensors, such as '.*'; pass the --arch, "),
    ],
)
def test_weights_of_another_network_are_rejected(tmp_path: Path, other: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        weights.load_into(ResidualNet(1, 10, 28), save(tmp_path, other.state_dict()))


def test_nan_weights_are_rejected(tmp_path: Path) -> None:
    state = ResidualNet(1, 10, 28).state_dict()
    next(iter(state.values())).fill_(float("nan"))
    with pytest.raises(ModelError, match="contains NaN or infinity"):
        weights.load_into(ResidualNet(1, 10, 28), save(tmp_path, state))


def test_error_for_a_pickle_contains_the_command_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"convert it to safetensors with 'netkit import .*net\.pth'"):
        weights.load_into(ResidualNet(1, 10, 28), tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        *[(arch, "linear") for arch in ARCHITECTURES],
        ("torchvision/resnet18", "fc"),
        ("torchvision/vgg11", "classifier.6"),
        ("torchvision/mobilenet_v3_small", "classifier.3"),
        ("torchvision/vit_b_16", "heads.head"),
    ],
)
def test_only_the_last_layer_of_a_frozen_network_is_trained(arch: str, layer: str) -> None:
    with torch.device("meta"):
        net = create(arch, channels=3, classes=7, size=32)
    weights.freeze_all_but_last_layer(net)
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert trained == {f"{layer}.weight", f"{layer}.bias"}
    assert len(net.get_parameter(f"{layer}.bias")) == 7
