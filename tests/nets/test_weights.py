"""Initial weights from files: conversion to safetensors, loading, and rejected files."""

import os
import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
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
from tests.support.user_networks import TiedConvolutions


def convert(
    tmp_path: Path, saved: object, *, arch: str | None = None, size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    torch.save(saved, tmp_path / "net.pth")
    weights.convert(tmp_path / "net.pth", tmp_path / "net.safetensors", arch=arch, size=size)
    return safetensors.torch.load_file(tmp_path / "net.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("state_dict",),
        ("model",),
        ("model_state_dict",),
        ("params",),
        ("state_dict_ema",),
        ("net",),
        ("model", "state_dict"),
    ],
)
def test_state_dict_is_converted_with_and_without_wrappers(tmp_path: Path, keys: tuple[str, ...]) -> None:
    state = ResidualNet(1, 10, 28).state_dict()
    saved: dict[str, object] = state
    for key in keys:
        saved = {"epoch": 3, "optimizer": {"state": {}, "lr": 0.1}, key: saved, "args": Namespace(lr=0.1)}
    assert same(convert(tmp_path, saved), state)


def test_averaged_weights_have_precedence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    current, averaged = (ResidualNet(1, 10, 28).state_dict() for _ in range(2))
    with caplog.at_level("INFO"):
        assert same(convert(tmp_path, {"state_dict": current, "state_dict_ema": averaged}), averaged)
    assert f"{tmp_path}/net.pth: using state_dict_ema, not state_dict" in caplog.messages


def with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "_orig_mod.", "module._orig_mod.", "model.net."])
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, prefix: str) -> None:
    state = ResidualNet(1, 10, 28).state_dict()
    assert same(convert(tmp_path, with_prefix(prefix, state)), state)


def test_names_of_parallel_and_compiled_networks_are_those_of_the_network(tmp_path: Path) -> None:
    net = ResidualNet(1, 10, 28)
    state = net.state_dict()
    assert same(convert(tmp_path, nn.DataParallel(net).state_dict()), state)
    assert same(convert(tmp_path, torch.compile(net).state_dict()), state)  # type: ignore[attr-defined]  # returns a module
    net.conv1 = torch.compile(net.conv1)  # type: ignore[assignment]  # a part of the network
    assert same(convert(tmp_path, net.state_dict()), state)


@pytest.mark.parametrize("name", ["net", "model", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_weights_of_a_network_whose_own_names_have_a_prefix_are_loaded(tmp_path: Path, name: str, prefix: str) -> None:
    source, net = (nn.Sequential(OrderedDict({name: ResidualNet(1, 10, 28)})) for _ in range(2))
    convert(tmp_path, with_prefix(prefix, source.state_dict()))
    weights.load_into(net, tmp_path / "net.safetensors")
    assert same(net.state_dict(), source.state_dict())


def test_a_lightning_checkpoint_with_a_loss_is_imported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, net = ResidualNet(1, 10, 28), ResidualNet(1, 10, 28)
    state = {**with_prefix("model.", source.state_dict()), "criterion.weight": torch.ones(10)}
    saved = {"epoch": 1, "pytorch-lightning_version": "2.5.0", "state_dict": state, "hyper_parameters": {"lr": 0.1}}
    with caplog.at_level("INFO"):
        assert same(convert(tmp_path, saved, arch="residual"), source.state_dict())
    assert f"{tmp_path}/net.pth: ignoring 1 tensors outside of 'model.', such as 'criterion.weight'" in caplog.messages
    convert(tmp_path, saved)
    weights.load_into(net, tmp_path / "net.safetensors")
    assert same(net.state_dict(), source.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_converted_to_float32(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    state = torchvision.models.resnet18(num_classes=3).to(dtype).state_dict()
    with caplog.at_level("INFO"):
        converted = convert(tmp_path, state)
    assert f"net.pth: converted weights from {str(dtype).removeprefix('torch.')} to float32" in caplog.text
    assert {str(tensor.dtype) for tensor in converted.values()} == {"torch.float32", "torch.int64"}
    assert all(torch.equal(tensor.to(state[name].dtype), state[name]) for name, tensor in converted.items())
    net = torchvision.models.resnet18(num_classes=3)
    weights.load_into(net, save(tmp_path, state))  # without 'netkit import'
    assert same(net.state_dict(), converted)


def test_missing_counters_of_batch_norm_are_added(tmp_path: Path) -> None:
    source, net = (torchvision.models.resnet18(num_classes=3) for _ in range(2))
    state = {k: value for k, value in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(state) == 102
    assert same(convert(tmp_path, state, arch="torchvision/resnet18"), source.state_dict())
    convert(tmp_path, state)
    weights.load_into(net, tmp_path / "net.safetensors")
    assert same(net.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("arch", "net"),
    [
        ("residual", ResidualNet(1, 26, 28)),
        ("residual", ResidualNet(3, 10, 28)),
        ("torchvision/squeezenet1_1", torchvision.models.squeezenet1_1(num_classes=7)),
        ("torchvision/googlenet", torchvision.models.googlenet(num_classes=5, aux_logits=True, init_weights=False)),
        ("tests.support.user_networks:TiedConvolutions", TiedConvolutions(1, 4, (9, 9))),
    ],
)
def test_import_with_a_network_accepts_any_channels_and_classes(tmp_path: Path, arch: str, net: nn.Module) -> None:
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("aux")}
    assert same(convert(tmp_path, with_prefix("module.", net.state_dict()), arch=arch), state)


def test_import_with_a_network_says_what_is_missing_and_unexpected(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    state["layer9.weight"] = state.pop("bn1.weight")
    with pytest.raises(
        ModelError,
        match=r"net\.pth: lacks 1 of the network's 122 tensors, such as 'bn1.weight' and has 1 of 122 tensors that the "
        r"network lacks, such as 'layer9.weight'; pass the --arch and --image-size of these weights$",
    ):
        convert(tmp_path, state, arch="torchvision/resnet18")
    assert not (tmp_path / "net.safetensors").exists()


def test_import_with_a_network_checks_the_image_size(tmp_path: Path) -> None:
    state = ResidualNet(1, 10, 64).state_dict()
    with pytest.raises(
        ModelError, match=r"tensor 'linear.weight' is .*, the network needs .*; pass the --arch and --im"
    ):
        convert(tmp_path, state, arch="residual")
    assert same(convert(tmp_path, state, arch="residual", size=(64, 64)), state)


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
    canary = {"weight": Canary(tmp_path / "canary")}
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(canary))
    torch.save(canary, tmp_path / "archive.pth")
    torch.save(canary, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused = r"contains more than weights: loading posix\.mkdir could run code"
    for name, problem in (
        ("pickle", "is a pickle that torch.save did not write"),
        ("archive", refused),
        ("old", refused),
    ):
        with pytest.raises(
            ModelError, match=rf"{name}\.pth: .*{problem}; import a file of torch\.save\(network\.state_"
        ):
            weights.convert(tmp_path / f"{name}.pth", tmp_path / "out.safetensors")
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
    for name, problem in (
        ("whole", "loading torch.nn.modules.linear.Linear could run code"),
        ("script", "TorchScript"),
    ):
        with pytest.raises(ModelError, match=rf"{name}\.pth: contains more than weights: .*{problem}.*; import"):
            weights.convert(tmp_path / f"{name}.pth", tmp_path / "out.safetensors")


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
