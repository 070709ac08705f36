"""pad_channels adds channels where every consumer keeps them at 0 or drops them, and changes no output."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export.convert import translate
from netkit.export.passes import apply_passes, float32_passes
from netkit.export.passes.pad_channels import pad_channels
from netkit.nets.build import ARCHITECTURES, build
from tests.support.commands import Netkit
from tests.support.graphs import export_floats, run_model


class Branches(nn.Module):
    """Two parallel convolutions of one input, concatenated."""

    def __init__(self, *, axis: int = 1) -> None:
        super().__init__()
        self.a, self.b, self.axis = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(3, 5, 1, bias=False), axis

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return torch.cat([a, b, x] if self.axis == 1 else [a[:, :5], b], dim=self.axis)


class Mean(nn.Module):
    """The mean over height and width: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class PoolWithIndices(nn.Module):
    """The sum of a pool's maxima and of their indices."""

    def forward(self, x: Tensor) -> Tensor:
        maxima, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
        return maxima + indices


class Residual(nn.Module):
    """The sum of the input and a convolution of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(10, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def conv_widths(proto: onnx.ModelProto) -> list[int]:
    """The number of output channels of each convolution, in order."""
    kernels = {weight.name: weight.dims[0] for weight in proto.graph.initializer}
    return [kernels[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"]


def conv(in_channels: int, out_channels: int, size: int = 1, *, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, groups=groups)


CASES: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "a chain of convolutions": (
        lambda: nn.Sequential(conv(3, 10, 3), nn.ReLU(), conv(10, 16), nn.ReLU(), conv(16, 4)), [16, 16, 4],
    ),
    "through pools": (
        lambda: nn.Sequential(conv(3, 10), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2), conv(10, 4)), [16, 4],
    ),
    "branches, and an input without padding between them": (
        lambda: nn.Sequential(Branches(), nn.BatchNorm2d(18), nn.ReLU(), conv(18, 7), nn.ReLU(), conv(7, 4)),
        [16, 16, 16, 4],
    ),
    "before a linear layer": (
        lambda: nn.Sequential(Branches(), nn.AvgPool2d(2), Mean(), nn.Linear(18, 5)), [16, 16],
    ),
    "not where pixels are flattened": (lambda: nn.Sequential(conv(3, 10), nn.Flatten(), nn.Linear(480, 5)), [10]),
    "not before a sum": (lambda: nn.Sequential(conv(3, 10), Residual(), conv(10, 16), nn.ReLU()), [10, 10, 16]),
    "not before a depthwise convolution": (lambda: nn.Sequential(conv(3, 10), conv(10, 10, 3, groups=10)), [10, 10]),
    "not before a concatenation of rows": (lambda: nn.Sequential(Branches(axis=2), conv(5, 4)), [10, 5, 4]),
    "not before a pool with indices": (lambda: nn.Sequential(conv(3, 10), PoolWithIndices()), [10]),
    "not before another function": (lambda: nn.Sequential(conv(3, 10), nn.Sigmoid(), conv(10, 4)), [10, 4]),
}  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_channels_are_padded_where_every_consumer_keeps_or_drops_them(
    make: Callable[[], nn.Module], expected: list[int]
) -> None:
    torch.manual_seed(0)
    net = make()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):  # different values for each channel
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 2)
    proto = export_floats(net, 3, 8, 6)
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 6)).astype(np.float32)
    after = apply_passes(proto, {"pad_channels": partial(pad_channels, multiple=16)})
    assert conv_widths(after) == expected
    np.testing.assert_allclose(run_model(after, images), run_model(proto, images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_densenet_is_the_only_built_in_network_that_is_padded(card: ModelCard) -> None:
    for arch in ARCHITECTURES:
        torch.manual_seed(0)
        arch_card = replace(card, arch=arch)
        proto = translate(build(arch_card).eval(), arch_card)
        before, after = (conv_widths(apply_passes(proto, float32_passes(multiple=multiple))) for multiple in (1, 16))
        assert (before != after) == (arch == "densenet")
        assert all(width % 16 == 0 for width in after) or arch == "inception"  # the input of its Add has 20 channels


USER_NETWORK = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, channels, classes, size):
        layers = nn.Conv2d(channels, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3), nn.Flatten()
        super().__init__(*layers, nn.Linear(4 * (size[0] - 4) * (size[1] - 4), classes))
"""


def test_export_command_pads_channels_and_the_file_verifies(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet, netkit: Netkit
) -> None:
    (tmp_path / "user_net.py").write_text(USER_NETWORK)
    arch = "user_net:Net"
    options = ("--data", "digits", "--epochs", "1", "--out", "run", "--no-export-check")
    assert netkit("train", "--arch", arch, *options).returncode == 0
    done = netkit("export", "--arch", arch, "--run", "run", "--out", "a.onnx", "--pad-channels", "16")
    assert done.returncode == 0, done.stderr
    assert conv_widths(onnx.load(tmp_path / "a.onnx")) == [16, 4]
    assert netkit("verify", "a.onnx").returncode == 0
