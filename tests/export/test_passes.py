"""Rewriting: each pass finds its pattern, leaves others alone, and changes no answer; and all of them on every net."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.export.convert import translate
from netkit.export.passes import rewrite
from netkit.export.passes.ir import sizes
from netkit.nets.build import ARCHITECTURES, build

RANDOM = np.random.default_rng(0)
SCALE, SHIFT = np.full((1, 1, 1), 0.01, np.float32), np.full((1, 1, 1), -0.4, np.float32)
COLOURS = np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1)
KERNEL = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
POINT = RANDOM.normal(size=(4, 3, 1, 1)).astype(np.float32)
SIXTEEN = RANDOM.normal(size=(16, 3, 1, 1)).astype(np.float32)
WIDE = RANDOM.normal(size=(4, 16, 3, 3)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)

Node = tuple[str, list[str], Mapping[str, Any]]


def model_of(*nodes: Node, maps: tuple[int, int] = (8, 6), **weights: NDArray[Any]) -> ir.Model:
    """Nodes in a chain: each makes a value of the one before, named "x" in the first, and of weights."""
    made = [
        helper.make_node(kind, [f"v{place}" if place else "x", *others], [f"v{place + 1}"], **options)
        for place, (kind, others, options) in enumerate(nodes)
    ]
    made[-1].output[0] = "y"
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, *maps])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def run(model: ir.Model, images: NDArray[Any]) -> NDArray[Any]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    runtime = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(runtime.run(None, {runtime.get_inputs()[0].name: images})[0])


PIXELS: list[Node] = [("Mul", ["scale"], {}), ("Add", ["shift"], {})]
CONV: Node = ("Conv", ["kernel", "bias"], {})
UNEVEN: Node = ("Conv", ["kernel"], {"pads": [1, 0, 2, 1], "strides": [2, 1]})
MEAN: Node = ("ReduceMean", ["axes"], {"keepdims": 0})
SAME = {"pads": [1, 1, 1, 1]}
PADDED: Node = ("Conv", ["kernel", "bias"], SAME)
AXES = np.array([2, 3])

FOUND: dict[str, tuple[Callable[[ir.Graph], None], ir.Model, list[str]]] = {
    "scale and shift": (
        rewrite.fold_pixels, model_of(*PIXELS, CONV, scale=COLOURS, shift=-COLOURS, kernel=KERNEL, bias=BIAS), ["Conv"],
    ),
    "scale and shift before a border": (
        rewrite.fold_pixels,
        model_of(*PIXELS, UNEVEN, scale=SCALE, shift=SHIFT, kernel=KERNEL),
        ["Pad", "Conv"],
    ),
    "a pool after a pointwise convolution": (
        rewrite.pool_before_pointwise,
        model_of(CONV, ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}), kernel=POINT, bias=BIAS),
        ["AveragePool", "Conv"],
    ),
    "a mean over all places": (rewrite.pool_all_places, model_of(MEAN, axes=AXES), ["GlobalAveragePool", "Flatten"]),
    "a mean from behind": (rewrite.pool_all_places, model_of(MEAN, axes=AXES - 4), ["GlobalAveragePool", "Flatten"]),
    "a mean of a large map": (
        rewrite.mean_rows_first, model_of(MEAN, axes=AXES, maps=(24, 20)), ["ReduceMean", "ReduceMean"],
    ),
    "a mean of a large map that keeps its places": (
        rewrite.mean_rows_first, model_of(("ReduceMean", ["axes"], {}), axes=AXES, maps=(24, 20)), ["ReduceMean"] * 2,
    ),
    "a border of blocks of channels": (
        rewrite.pad_beforehand, model_of(("Conv", ["sixteen"], {}), PADDED, sixteen=SIXTEEN, kernel=WIDE, bias=BIAS),
        ["Conv", "Conv", "Conv"],
    ),
    "a border of few channels": (
        rewrite.pad_beforehand, model_of(("Relu", [], {}), PADDED, kernel=KERNEL, bias=BIAS),
        ["Relu", "Pad", "Relu", "Conv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_a_pass_writes_its_pattern_in_another_way_and_changes_no_answer(case: str) -> None:
    step, model, kinds = FOUND[case]
    images = RANDOM.normal(size=(3, *sizes(model.graph.inputs[0]))).astype(np.float32)
    before = run(model, images)
    step(model.graph)
    RemoveUnusedNodesPass()(model)
    assert [node.op_type for node in model.graph] == kinds
    np.testing.assert_allclose(run(model, images), before, rtol=1e-5, atol=1e-5)


def test_a_mean_of_rows_first_is_nearer_to_the_truth() -> None:
    model = model_of(MEAN, axes=AXES, maps=(112, 112))
    images = RANDOM.random((3, 3, 112, 112), np.float32)
    exact = images.astype(np.float64).mean(axis=(2, 3))
    before = np.abs(run(model, images) - exact).max()
    rewrite.mean_rows_first(model.graph)
    assert np.abs(run(model, images) - exact).max() < before / 2


LEFT = {
    "colours that have no one pixel for the border": (
        rewrite.fold_pixels,
        model_of(*PIXELS, ("Conv", ["kernel"], SAME), scale=COLOURS, shift=COLOURS[::-1].copy(), kernel=KERNEL),
    ),
    "grouped": (
        rewrite.fold_pixels,
        model_of(*PIXELS, ("Conv", ["kernel"], {"group": 3}), scale=SCALE, shift=SHIFT, kernel=KERNEL[:3, :1].copy()),
    ),
    "a pool of as many places": (
        rewrite.pool_before_pointwise,
        model_of(CONV, ("AveragePool", [], {"kernel_shape": [2, 2]}), kernel=POINT, bias=BIAS),
    ),
    "a pool after a larger convolution": (
        rewrite.pool_before_pointwise,
        model_of(CONV, ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}), kernel=KERNEL, bias=BIAS),
    ),
    "a mean of a small map": (rewrite.mean_rows_first, model_of(MEAN, axes=AXES)),
    "a mean over channels": (rewrite.pool_all_places, model_of(MEAN, axes=np.array([1, 2]))),
    "a mean that keeps its places": (rewrite.pool_all_places, model_of(("ReduceMean", ["axes"], {}), axes=AXES)),
    "a border of rows that are uneven without it": (
        rewrite.pad_beforehand,
        model_of(CONV, PADDED, kernel=KERNEL[:3], bias=BIAS[:3]),
    ),
    "a border of few channels that may be negative": (
        rewrite.pad_beforehand,
        model_of(PADDED, kernel=KERNEL, bias=BIAS),
    ),
    "a border of steps": (
        rewrite.pad_beforehand,
        model_of(("Relu", [], {}), ("Conv", ["kernel"], {**SAME, "strides": [2, 2]}), kernel=KERNEL),
    ),
    "no border": (
        rewrite.pad_beforehand,
        model_of(("Conv", ["sixteen"], {}), CONV, sixteen=SIXTEEN, kernel=WIDE, bias=BIAS),
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_a_pass_leaves_other_patterns_alone(case: str) -> None:
    step, model = LEFT[case]
    before = [node.op_type for node in model.graph]
    step(model.graph)
    assert [node.op_type for node in model.graph] == before


@pytest.fixture(scope="module", params=ARCHITECTURES)
def proto(request: pytest.FixtureRequest, card: ModelCard) -> onnx.ModelProto:
    """Each net in turn as torch's exporter has it."""
    torch.manual_seed(0)
    of_net = replace(card, arch=request.param)
    return translate(build(of_net).eval(), of_net)


WHOLE = [rewrite.LESS_WORK, *(rewrite.passes(multiple=multiple) for multiple in (1, 16, 7))]


@pytest.mark.parametrize("passes", [*((step,) for step in rewrite.PASSES), *WHOLE])
def test_every_net_answers_the_same_after_each_pass_and_after_all(
    proto: onnx.ModelProto, passes: tuple[rewrite.Pass, ...]
) -> None:
    images = RANDOM.integers(0, 256, (16, 1, 28, 28), np.uint8)
    after = rewrite.rewritten(proto, passes)
    before = run(ir.from_proto(proto), images)
    np.testing.assert_allclose(run(ir.from_proto(after), images), before, rtol=1e-5, atol=1e-5)


class Scaled(nn.Module):
    """Constants as a net's own code has them: buffers of any shape, before a layer."""

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("scale", torch.rand(shape) + 0.1)
        self.register_buffer("shift", torch.rand(shape))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layer(images * self.scale + self.shift)
        return found


class Mixed(nn.Module):
    """A Reshape that makes other rows than one for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 8, 1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.linear(self.conv(images).reshape(-1, 4))
        return found


ODD: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "a product for one pixel": (
        nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)), (4, 1, 1)
    ),
    "kernels larger than images": (
        nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 3, 5, padding=2)), (3, 3, 2)
    ),
    "two passes on one value": (
        nn.Sequential(
            nn.ReLU(), nn.Conv2d(16, 32, 1, bias=False), nn.Conv2d(32, 8, 3, padding=1, bias=False), nn.ReLU()
        ), (16, 12, 12),
    ),
    "scaled between convolutions": (
        nn.Sequential(nn.Conv2d(4, 16, 1, bias=False), Scaled(nn.Conv2d(16, 4, 3), 1), nn.ReLU()), (4, 14, 14)
    ),
    "constants with a batch": (Scaled(nn.Conv2d(4, 6, 3), 1, 4, 1, 1), (4, 8, 9)),
    "one constant with a batch": (Scaled(nn.Conv2d(4, 6, 3), 1, 1, 1, 1), (4, 8, 9)),
    "constants for each pixel": (Scaled(nn.Conv2d(4, 6, 3), 1, 4, 8, 9), (4, 8, 9)),
    "constants for each column": (Scaled(nn.Conv2d(4, 6, 3), 9), (4, 8, 9)),
    "constants that make three channels of one": (Scaled(nn.Conv2d(3, 6, 3), 3, 1, 1), (1, 8, 9)),
    "in one dimension": (nn.Sequential(nn.Conv1d(4, 8, 1), nn.Conv1d(8, 4, 3, padding=1), nn.AvgPool1d(2)), (4, 9)),
    "in three dimensions": (nn.Sequential(nn.Conv3d(2, 4, 1), nn.Conv3d(4, 2, 3, padding=1)), (2, 4, 5, 6)),
    "rows that are no images": (Mixed(), (4, 6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_all_passes_together_change_no_answer_of_odd_nets(case: str) -> None:
    torch.manual_seed(0)
    net, shape = ODD[case]
    example = torch.zeros(2, *shape)
    program = torch.onnx.export(
        net.eval(),
        (example,),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("b")},),
        verbose=False,
    )
    assert program is not None
    model = ir.from_proto(rewrite.rewritten(program.model_proto, rewrite.PASSES))
    images = RANDOM.normal(size=(5, *shape)).astype(np.float32)
    with torch.no_grad():
        exact = net.double()(torch.from_numpy(images).double()).numpy()
    np.testing.assert_allclose(run(model, images), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("arch", "side"), [("inception", 16), ("inception", 17), ("residual", 16), ("preact", 8)])
def test_nets_of_small_images_keep_their_answers(card: ModelCard, arch: str, side: int) -> None:
    small = replace(card, arch=arch, height=side, width=side)
    plain = translate(build(small).eval(), small)
    images = RANDOM.integers(0, 256, (3, 1, side, side), np.uint8)
    before, after = (
        run(ir.from_proto(plain), images),
        run(ir.from_proto(rewrite.rewritten(plain, rewrite.PASSES)), images),
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
