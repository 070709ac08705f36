"""Each graph pass rewrites its pattern, leaves other patterns unchanged, and changes no output of any network."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.export.convert import translate
from netkit.export.parity.reference import synthetic_inputs
from netkit.export.passes import (
    ANY_PRECISION,
    FLOAT32,
    OPTIONAL,
    Pass,
    Passes,
    apply_and_list,
    apply_passes,
    float32_passes,
)
from netkit.export.passes.explicit_padding import depthwise_padding, explicit_padding
from netkit.export.passes.fold_pixels import fold_pixels
from netkit.export.passes.ir import sample_shape
from netkit.export.passes.pool_before_pointwise import pool_before_pointwise
from netkit.export.passes.two_step_mean import two_step_mean
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.normalize import FromPixels
from tests.support.graphs import export_floats, op_types, run_model

RNG = np.random.default_rng(0)
SCALE, SHIFT = np.full((1, 1, 1), 0.01, np.float32), np.full((1, 1, 1), -0.4, np.float32)
COLOR_SCALE = np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1)
KERNEL_3X3 = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
KERNEL_9X9 = RNG.normal(size=(4, 3, 9, 9)).astype(np.float32)
KERNEL_1X1 = RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)
TO_16_CHANNELS = RNG.normal(size=(16, 3, 1, 1)).astype(np.float32)
FROM_16_CHANNELS = RNG.normal(size=(4, 16, 3, 3)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)

Node = tuple[str, list[str], Mapping[str, Any]]  # operator, weights, attributes


def chain(*nodes: Node, size: tuple[int, int] = (8, 6), **weights: NDArray[Any]) -> ir.Model:
    """A model of a chain of nodes, each with the previous value and weights as inputs; "x" is (N, 3, *size)."""
    protos = [
        helper.make_node(op_type, [f"v{index}" if index else "x", *names], [f"v{index + 1}"], **attributes)
        for index, (op_type, names, attributes) in enumerate(nodes)
    ]
    protos[-1].output[0] = "y"
    graph = helper.make_graph(
        protos, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


PIXELS: list[Node] = [("Mul", ["scale"], {}), ("Add", ["shift"], {})]
CONV: Node = ("Conv", ["kernel", "bias"], {})
PADDING = {"pads": [1, 1, 1, 1]}
WIDE_PADDING = {"pads": [4, 3, 2, 4]}
WIDE_CONV: Node = ("Conv", ["kernel"], WIDE_PADDING)
PADDED_CONV: Node = ("Conv", ["kernel", "bias"], PADDING)
UNEVEN_CONV: Node = ("Conv", ["kernel"], {"pads": [1, 0, 2, 1], "strides": [2, 1]})
TO_16: Node = ("Conv", ["to_16"], {})
POOL: Node = ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]})
MEAN: Node = ("ReduceMean", ["axes"], {"keepdims": 0})
RELU: Node = ("Relu", [], {})
AXES = np.array([2, 3])

REWRITTEN: dict[str, tuple[Pass, ir.Model, list[str]]] = {
    "scale and shift per channel": (
        fold_pixels, chain(*PIXELS, CONV, scale=COLOR_SCALE, shift=-COLOR_SCALE, kernel=KERNEL_3X3, bias=BIAS),
        ["Conv"],
    ),
    "a pool after a pointwise convolution": (
        pool_before_pointwise, chain(CONV, POOL, kernel=KERNEL_1X1, bias=BIAS), ["AveragePool", "Conv"],
    ),
    "a mean of a large map": (two_step_mean, chain(MEAN, axes=AXES, size=(24, 20)), ["ReduceMean"] * 2),
    "a mean of a large map that keeps its dimensions": (
        two_step_mean, chain(("ReduceMean", ["axes"], {}), axes=AXES, size=(24, 20)), ["ReduceMean"] * 2,
    ),
    "padding of a wide kernel after a ReLU": (
        explicit_padding, chain(RELU, WIDE_CONV, size=(12, 13), kernel=KERNEL_9X9), ["Relu", "Pad", "Relu", "Conv"],
    ),
    "padding of whole blocks of channels": (
        depthwise_padding, chain(TO_16, PADDED_CONV, to_16=TO_16_CHANNELS, kernel=FROM_16_CHANNELS, bias=BIAS),
        ["Conv"] * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REWRITTEN)
def test_pass_rewrites_its_pattern_and_changes_no_output(case: str) -> None:
    graph_pass, model, expected = REWRITTEN[case]
    images = RNG.normal(size=(3, *sample_shape(model.graph.inputs[0]))).astype(np.float32)
    before = run_model(model, images)
    graph_pass(model.graph)
    RemoveUnusedNodesPass()(model)
    assert op_types(model) == expected
    np.testing.assert_allclose(run_model(model, images), before, rtol=1e-5, atol=1e-5)


def test_two_step_mean_is_more_accurate() -> None:
    model = chain(MEAN, axes=AXES, size=(112, 112))
    images = RNG.random((3, 3, 112, 112), np.float32)
    exact = images.astype(np.float64).mean(axis=(2, 3))
    error_before = np.abs(run_model(model, images) - exact).max()
    two_step_mean(model.graph)
    assert np.abs(run_model(model, images) - exact).max() < error_before / 2


UNCHANGED: dict[str, tuple[Pass, ir.Model]] = {
    "scale and shift before padding": (
        fold_pixels,
        chain(*PIXELS, UNEVEN_CONV, scale=SCALE, shift=SHIFT, kernel=KERNEL_3X3),
    ),
    "a grouped convolution": (
        fold_pixels,
        chain(*PIXELS, ("Conv", ["kernel"], {"group": 3}), scale=SCALE, shift=SHIFT, kernel=KERNEL_3X3[:3, :1].copy()),
    ),
    "a pool of stride 1": (
        pool_before_pointwise,
        chain(CONV, ("AveragePool", [], {"kernel_shape": [2, 2]}), kernel=KERNEL_1X1, bias=BIAS),
    ),
    "a pool after a larger convolution": (pool_before_pointwise, chain(CONV, POOL, kernel=KERNEL_3X3, bias=BIAS)),
    "a mean of a small map": (two_step_mean, chain(MEAN, axes=AXES)),
    "a mean over channels": (two_step_mean, chain(MEAN, axes=np.array([1, 2]), size=(24, 20))),
    "padding of a small kernel": (
        explicit_padding,
        chain(RELU, PADDED_CONV, size=(12, 13), kernel=KERNEL_3X3, bias=BIAS),
    ),
    "padding of a wide kernel on a large map": (
        explicit_padding,
        chain(RELU, WIDE_CONV, size=(48, 48), kernel=KERNEL_9X9),
    ),
    "padding of values that may be negative": (explicit_padding, chain(WIDE_CONV, size=(12, 13), kernel=KERNEL_9X9)),
    "padding before strides": (
        explicit_padding,
        chain(RELU, ("Conv", ["kernel"], {**WIDE_PADDING, "strides": [2, 2]}), size=(12, 13), kernel=KERNEL_9X9),
    ),
    "padding of channels that do not fill blocks": (
        depthwise_padding,
        chain(CONV, PADDED_CONV, kernel=KERNEL_3X3[:3], bias=BIAS[:3]),
    ),
    "padding that costs no single pixels": (
        depthwise_padding,
        chain(TO_16, PADDED_CONV, size=(8, 8), to_16=TO_16_CHANNELS, kernel=FROM_16_CHANNELS, bias=BIAS),
    ),
    "no padding": (depthwise_padding, chain(TO_16, CONV, to_16=TO_16_CHANNELS, kernel=FROM_16_CHANNELS, bias=BIAS)),
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_pass_leaves_other_patterns_unchanged(case: str) -> None:
    graph_pass, model = UNCHANGED[case]
    before = op_types(model)
    graph_pass(model.graph)
    assert op_types(model) == before


@pytest.fixture(scope="module", params=ARCHITECTURES)
def proto(request: pytest.FixtureRequest, card: ModelCard) -> onnx.ModelProto:
    """A built-in network as exported by torch, before the passes."""
    torch.manual_seed(0)
    arch_card = replace(card, arch=request.param)
    return translate(build(arch_card).eval(), arch_card)


ALL_NAMES = (*FLOAT32, *OPTIONAL)


@pytest.mark.parametrize(
    "passes",
    [
        FLOAT32,
        float32_passes(ALL_NAMES, multiple=16),
        *(
            pytest.param(passes, marks=pytest.mark.slow)
            for passes in (*(float32_passes([name]) for name in ALL_NAMES), ANY_PRECISION, float32_passes(multiple=7))
        ),
    ],
)
def test_every_network_has_the_same_outputs_after_each_pass_and_after_all_passes(
    proto: onnx.ModelProto, passes: Passes
) -> None:
    images = RNG.integers(0, 256, (16, 1, 28, 28), np.uint8)
    after = apply_passes(proto, passes)
    np.testing.assert_allclose(run_model(after, images), run_model(proto, images), rtol=1e-5, atol=1e-5)


class Scaled(nn.Module):
    """A layer after a scale and a shift, which are buffers of any shape, as in a user's network."""

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("scale", torch.rand(shape) + 0.1)
        self.register_buffer("shift", torch.rand(shape))

    def forward(self, images: Tensor) -> Tensor:
        y: Tensor = self.layer(images * self.scale + self.shift)
        return y


class SeveralRows(nn.Module):
    """A Reshape that turns each image into several rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 8, 1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        y: Tensor = self.linear(self.conv(images).reshape(-1, 4))
        return y


UNUSUAL: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "images of one pixel": (
        nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)), (4, 1, 1)
    ),
    "kernels larger than images": (
        nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 3, 5, padding=2)), (3, 3, 2)
    ),
    "a value that two passes rewrite": (
        nn.Sequential(
            nn.ReLU(), nn.Conv2d(16, 32, 1, bias=False), nn.Conv2d(32, 8, 3, padding=1, bias=False), nn.ReLU()
        ), (16, 12, 12),
    ),
    "scale and shift between convolutions": (
        nn.Sequential(nn.Conv2d(4, 16, 1, bias=False), Scaled(nn.Conv2d(16, 4, 3), 1), nn.ReLU()), (4, 14, 14)
    ),
    "constants per channel with a batch dimension": (Scaled(nn.Conv2d(4, 6, 3), 1, 4, 1, 1), (4, 8, 9)),
    "one constant with a batch dimension": (Scaled(nn.Conv2d(4, 6, 3), 1, 1, 1, 1), (4, 8, 9)),
    "constants per pixel": (Scaled(nn.Conv2d(4, 6, 3), 1, 4, 8, 9), (4, 8, 9)),
    "constants per column": (Scaled(nn.Conv2d(4, 6, 3), 9), (4, 8, 9)),
    "constants that broadcast one channel to three": (Scaled(nn.Conv2d(3, 6, 3), 3, 1, 1), (1, 8, 9)),
    "one dimension": (nn.Sequential(nn.Conv1d(4, 8, 1), nn.Conv1d(8, 4, 3, padding=1), nn.AvgPool1d(2)), (4, 9)),
    "three dimensions": (nn.Sequential(nn.Conv3d(2, 4, 1), nn.Conv3d(4, 2, 3, padding=1)), (2, 4, 5, 6)),
    "several rows per image": (SeveralRows(), (4, 6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_all_passes_together_keep_the_outputs_of_unusual_networks(case: str) -> None:
    torch.manual_seed(0)
    net, shape = UNUSUAL[case]
    after = apply_passes(export_floats(net, *shape), {**FLOAT32, **OPTIONAL})
    images = RNG.normal(size=(5, *shape)).astype(np.float32)
    with torch.no_grad():
        exact = net.double()(torch.from_numpy(images).double()).numpy()
    np.testing.assert_allclose(run_model(after, images), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "side"),
    [pytest.param("inception", 16, marks=pytest.mark.slow), ("inception", 17), ("residual", 16), ("preact", 8)],
)
def test_networks_of_small_images_keep_their_outputs(card: ModelCard, arch: str, side: int) -> None:
    small = replace(card, arch=arch, height=side, width=side)
    before = translate(build(small).eval(), small)
    images = RNG.integers(0, 256, (3, 1, side, side), np.uint8)
    after = apply_passes(before, FLOAT32)
    np.testing.assert_allclose(run_model(after, images), run_model(before, images), rtol=1e-4, atol=1e-5)


class MeanNet(nn.Module):
    """A convolution, a ReLU, the mean over all pixels and a linear layer, as in many small networks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, channels, 3, padding=1), nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images).relu().mean((2, 3)))
        return logits


def small_vgg(side: int) -> nn.Module:
    convs = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(24 * (side // 2) ** 2, 32), nn.ReLU(), nn.Linear(32, 10))


def pool_and_linear(side: int) -> nn.Module:
    pools = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2), nn.Flatten()
    return nn.Sequential(*pools, nn.Linear(8 * (side // 2) ** 2, 16), nn.Linear(16, 10))


PRECISE: dict[str, tuple[Callable[[ModelCard], nn.Module], int]] = {
    **{f"mean over {side}x{side} pixels": (lambda _: MeanNet(16), side) for side in (12, 14, 16, 24, 48)},
    "mean of 8 channels": (lambda _: MeanNet(8), 12),
    "linear layers after pools": (lambda card: pool_and_linear(card.height), 16),
    "convolutions and max pools": (lambda card: small_vgg(card.height), 16),
    "residual": (build, 28),
    "inception": (build, 28),
    "preact": (build, 28),
    "densenet": (build, 28),
}
SLOW_TO_EXPORT = ("inception", "preact", "densenet")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_EXPORT else ()) for name in PRECISE]
)
def test_the_rounding_errors_are_no_larger_after_each_pass(card: ModelCard, name: str) -> None:
    """Two orders of the same sum have random errors: over these networks, their ratio varied from 0.87 to 1.12."""
    make, side = PRECISE[name]
    torch.manual_seed(0)
    net_card = replace(card, arch=name, height=side, width=side)
    net = make(net_card).eval()
    before = translate(net, net_card)
    images = np.concatenate([*synthetic_inputs(1, side, side, max_per_kind=200).values()])
    with torch.no_grad():
        exact = FromPixels(copy.deepcopy(net), net_card).double().eval()(torch.from_numpy(images)).numpy()
    error_before = np.sqrt(np.mean((run_model(before, images) - exact) ** 2))
    for passes in (*(float32_passes([graph_pass]) for graph_pass in ALL_NAMES), FLOAT32):
        after, changed = apply_and_list(before, passes)
        error = np.sqrt(np.mean((run_model(after, images) - exact) ** 2))
        assert error <= 1.2 * error_before, changed
