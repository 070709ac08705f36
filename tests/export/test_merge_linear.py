"""merge_linear replaces several linear layers by one if that is faster, and leaves other layers unchanged."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from netkit.export.passes.merge_linear import as_convolution, merge_linear
from netkit.nets.inception import InceptionA
from tests.support.graphs import export_floats, op_types, run_model


def conv(in_channels: int, out_channels: int, size: int, padding: int = 0, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=padding, stride=stride)


def inception_block() -> nn.Module:
    """Branches, a concatenation and a convolution between two activations, as in the inception network."""
    return nn.Sequential(nn.ReLU(), InceptionA(10), conv(88, 20, 5), nn.ReLU())


MERGED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "a convolution with borders": (inception_block, (10, 12, 12), {"Conv", "MatMul"}),
    "a convolution of non-square maps": (inception_block, (10, 11, 14), {"Conv", "MatMul"}),
    "a convolution without borders": (lambda: nn.Sequential(conv(4, 16, 1), conv(16, 4, 3)), (4, 9, 7), {"Conv"}),
    "a bias that differs at the borders": (
        lambda: nn.Sequential(conv(4, 16, 1), conv(16, 4, 3, 1)), (4, 9, 7), {"Conv", "Add"},
    ),
    "a matrix product": (
        lambda: nn.Sequential(nn.ReLU(), InceptionA(3), nn.Flatten(), nn.Linear(88 * 12, 5)), (3, 4, 3), {"Gemm"},
    ),
    "a matrix product with a pool": (
        lambda: nn.Sequential(nn.AvgPool2d(2), conv(3, 8, 1), nn.Flatten(), nn.Linear(32, 2)), (3, 4, 4), {"Gemm"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_merged_layer_computes_the_same_as_the_layers(case: str) -> None:
    make, shape, expected_ops = MERGED[case]
    torch.manual_seed(0)
    net = make()
    images = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    exact = net.double()(torch.from_numpy(images).double()).detach().numpy()
    model = ir.from_proto(export_floats(net.float(), *shape))
    error_before = np.abs(run_model(model, images) - exact).max()
    merge_linear(model.graph)
    RemoveUnusedNodesPass()(model)
    assert expected_ops <= set(op_types(model)) and not {"Concat", "AveragePool"} & set(op_types(model))
    for batch in (5, 2, 1):
        error_after = np.abs(run_model(model, images[:batch]) - exact[:batch]).max()
        assert error_after <= 2 * error_before + 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(
            lambda: nn.Sequential(conv(4, 4, 3), nn.ReLU(), conv(4, 4, 3)), (4, 8, 8), id="an activation between"
        ),
        pytest.param(lambda: nn.Sequential(conv(4, 2, 1), conv(2, 64, 3)), (4, 8, 8), id="more work when merged"),
        pytest.param(
            lambda: nn.Sequential(conv(64, 64, 1), conv(64, 4, 3)), (64, 40, 40), id="a matrix too large to measure"
        ),
        pytest.param(
            lambda: nn.Sequential(conv(4, 16, 1, stride=2), conv(16, 4, 3)), (4, 17, 17), id="a convolution of stride 2"
        ),
    ],
)
def test_other_layers_are_unchanged(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = ir.from_proto(export_floats(make(), *shape))
    before = op_types(model)
    merge_linear(model.graph)
    assert op_types(model) == before


def test_zero_map_is_not_written_as_a_convolution() -> None:
    assert as_convolution(np.zeros((2, 4, 4, 2, 4, 4))) is None


def test_transposition_is_not_a_convolution_with_few_weights() -> None:
    matrix = np.einsum("oc,hW,wH->ohwcHW", np.ones((2, 2)), np.eye(4), np.eye(4))
    convolution = as_convolution(matrix)
    assert convolution is None or convolution.weights > matrix.size / 4
