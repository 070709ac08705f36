"""Channels in multiples: where all that follows can leave the new ones out, they are there, and change no answer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.data.dataset import HeldDataSet
from netkit.export.convert import translate
from netkit.export.passes.pad_channels import widen
from netkit.export.passes.rewrite import passes, pool_all_places, rewritten
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.training import checkpoint
from tests.support.commands import Netkit


class Branches(nn.Module):
    """Two convolutions of one input, side by side."""

    def __init__(self, *, axis: int = 1) -> None:
        super().__init__()
        self.a, self.b, self.axis = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(3, 5, 1, bias=False), axis

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return torch.cat([a, b, x] if self.axis == 1 else [a[:, :5], b], dim=self.axis)


class Mean(nn.Module):
    """That over all places: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Places(nn.Module):
    """A pool that tells where its maxima lie, too, and a sum of all that."""

    def forward(self, x: Tensor) -> Tensor:
        maxima, places = nn.functional.max_pool2d(x, 2, return_indices=True)
        return maxima + places


class Residual(nn.Module):
    """A sum of what comes in and what a convolution makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(10, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def widths(proto: onnx.ModelProto) -> list[int]:
    """How many channels each convolution makes, in order."""
    kernels = {weight.name: weight.dims[0] for weight in proto.graph.initializer}
    return [kernels[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"]


def exported(net: nn.Module) -> onnx.ModelProto:
    """What torch's exporter makes of it."""
    program = torch.onnx.export(
        net.eval(), (torch.zeros(2, 3, 8, 6),), dynamo=True, opset_version=20, input_names=["x"], output_names=["y"],
        dynamic_shapes=[{0: torch.export.Dim("batch")}], verbose=False,
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def answers(proto: onnx.ModelProto, images: NDArray[Any]) -> NDArray[Any]:
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": images})[0])


def conv(ins: int, outs: int, size: int = 1, *, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, size, groups=groups)


CASES: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "one after the other": (
        lambda: nn.Sequential(conv(3, 10, 3), nn.ReLU(), conv(10, 16), nn.ReLU(), conv(16, 4)), [16, 16, 4],
    ),
    "through pools": (
        lambda: nn.Sequential(conv(3, 10), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2), conv(10, 4)), [16, 4],
    ),
    "side by side, with what is not wider between": (
        lambda: nn.Sequential(Branches(), nn.BatchNorm2d(18), nn.ReLU(), conv(18, 7), nn.ReLU(), conv(7, 4)),
        [16, 16, 16, 4],
    ),
    "to a linear layer": (
        lambda: nn.Sequential(Branches(), nn.AvgPool2d(2), Mean(), nn.Linear(18, 5)), [16, 16],
    ),
    "not where places are flattened": (lambda: nn.Sequential(conv(3, 10), nn.Flatten(), nn.Linear(480, 5)), [10]),
    "not before a sum": (lambda: nn.Sequential(conv(3, 10), Residual(), conv(10, 16), nn.ReLU()), [10, 10, 16]),
    "not before a depthwise one": (lambda: nn.Sequential(conv(3, 10), conv(10, 10, 3, groups=10)), [10, 10]),
    "not side by side along rows": (lambda: nn.Sequential(Branches(axis=2), conv(5, 4)), [10, 5, 4]),
    "not before a pool's places": (lambda: nn.Sequential(conv(3, 10), Places()), [10]),
    "not before another function": (lambda: nn.Sequential(conv(3, 10), nn.Sigmoid(), conv(10, 4)), [10, 4]),
}  # fmt: skip


@pytest.mark.parametrize(("make", "wanted"), CASES.values(), ids=CASES)
def test_channels_become_multiples_where_all_that_follows_can_leave_new_ones_out(
    make: Callable[[], nn.Module], wanted: list[int]
) -> None:
    torch.manual_seed(0)
    net = make()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):  # each its own
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 2)
    proto = exported(net)
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 6)).astype(np.float32)
    after = rewritten(proto, (pool_all_places, widen(16)))
    assert widths(after) == wanted
    np.testing.assert_allclose(answers(after, images), answers(proto, images), rtol=1e-5, atol=1e-5)


def test_of_netkits_nets_densenet_becomes_wider(card: ModelCard) -> None:
    for arch in ARCHITECTURES:
        torch.manual_seed(0)
        of_net = replace(card, arch=arch)
        proto = translate(build(of_net).eval(), of_net)
        before, after = (widths(rewritten(proto, passes(multiple=multiple))) for multiple in (1, 16))
        assert (before != after) == (arch == "densenet")
        assert all(width % 16 == 0 for width in after) or arch == "inception"  # whose sum has 20


def test_the_command_line_pads_channels_and_the_file_proves_itself(
    tmp_path: Path, card: ModelCard, digits_data: HeldDataSet, netkit: Netkit
) -> None:
    of_net = replace(card, arch="densenet", origin=replace(card.origin, data_sha256=digits_data.sha256))
    checkpoint.save(tmp_path / "a.safetensors", build(of_net), of_net)
    options = ("--weights", "a.safetensors", "--data", "digits", "--out", "a.onnx", "--pad-channels", "16")
    done = netkit("export", *options)
    assert done.returncode == 0, done.stderr
    assert 24 not in widths(onnx.load(tmp_path / "a.onnx"))
    assert netkit("verify", "a.onnx").returncode == 0
