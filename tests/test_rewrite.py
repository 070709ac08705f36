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

from export import rewrite
from export.convert import translate
from nets.build import ARCHITECTURES, build
from nets.card import ModelCard

RANDOM = np.random.default_rng(0)
SCALE, SHIFT = np.full((1, 1, 1), 0.01, np.float32), np.full((1, 1, 1), -0.4, np.float32)
COLOURS = np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1)
KERNEL = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
POINT = RANDOM.normal(size=(4, 3, 1, 1)).astype(np.float32)
SIXTEEN = RANDOM.normal(size=(16, 3, 1, 1)).astype(np.float32)
WIDE = RANDOM.normal(size=(4, 16, 3, 3)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)

Node = tuple[str, list[str], Mapping[str, Any]]


def model_of(*nodes: Node, **weights: NDArray[Any]) -> ir.Model:
    """Nodes in a chain: each makes a value of the one before, named "x" in the first, and of weights."""
    made = [
        helper.make_node(kind, [f"v{place}" if place else "x", *others], [f"v{place + 1}"], **options)
        for place, (kind, others, options) in enumerate(nodes)
    ]
    made[-1].output[0] = "y"
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 6])],
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
    images = RANDOM.normal(size=(3, 3, 8, 6)).astype(np.float32)
    before = run(model, images)
    step(model.graph)
    RemoveUnusedNodesPass()(model)
    assert [node.op_type for node in model.graph] == kinds
    np.testing.assert_allclose(run(model, images), before, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("passes", [*((step,) for step in rewrite.PASSES), rewrite.LESS_WORK, rewrite.PASSES])
def test_every_net_answers_the_same_after_each_pass_and_after_all(
    proto: onnx.ModelProto, passes: tuple[rewrite.Pass, ...]
) -> None:
    images = RANDOM.integers(0, 256, (16, 1, 28, 28), np.uint8)
    after = rewrite.rewritten(proto, passes)
    before = run(ir.from_proto(proto), images)
    np.testing.assert_allclose(run(ir.from_proto(after), images), before, rtol=1e-5, atol=1e-5)
