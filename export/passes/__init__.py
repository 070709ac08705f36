"""Graph passes: each replaces a pattern of ONNX operators by operators that compute the same and run faster.

A pass changes a graph wherever its pattern occurs, in any network. Every pass is exact up to rounding, and the rounding
errors are no larger than without it; the parity check covers the result. Each module states the identity that its pass
uses. No pass looks at the CPU of this machine, so an export gives the same graph on every machine.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial

import onnx
import onnx_ir
from onnx_ir.passes import common

from netkit.export.passes.explicit_padding import depthwise_padding, explicit_padding
from netkit.export.passes.fold_pixels import fold_pixels
from netkit.export.passes.merge_linear import merge_linear
from netkit.export.passes.pad_channels import pad_channels
from netkit.export.passes.pool_before_pointwise import pool_before_pointwise
from netkit.export.passes.two_step_mean import two_step_mean
from netkit.export.silence import silent

Pass = Callable[[onnx_ir.Graph], None]
Passes = Mapping[str, Pass]  # by name, in the order in which they run

ANY_PRECISION: Passes = {
    "fold_pixels": fold_pixels,
    "merge_linear": merge_linear,
    "pool_before_pointwise": pool_before_pointwise,
    "two_step_mean": two_step_mean,
}
FLOAT32: Passes = {**ANY_PRECISION, "explicit_padding": explicit_padding}  # for ONNX Runtime's float32 kernels
OPTIONAL: Passes = {"depthwise_padding": depthwise_padding}  # faster on some CPUs only; run if they are named


def float32_passes(names: Collection[str] = tuple(FLOAT32), *, multiple: int = 1) -> Passes:
    """Return the passes in `names`. With a `multiple` of 16, add "pad_channels:16", which pads channels to 16, 32, ...

    `pad_channels` runs before `depthwise_padding`, which applies where the channels fill whole blocks.
    """
    channels: Passes = {f"pad_channels:{multiple}": partial(pad_channels, multiple=multiple)} if multiple > 1 else {}
    passes: Passes = {**FLOAT32, **channels, **OPTIONAL}
    return {name: passes[name] for name in passes if name in names or name in channels}


def apply_passes(proto: onnx.ModelProto, passes: Passes) -> onnx.ModelProto:
    """Return `proto` after the passes, applied in order."""
    return apply_and_list(proto, passes)[0]


def apply_and_list(proto: onnx.ModelProto, passes: Passes) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return `proto` after the passes, and the names of those that changed it; shapes are inferred before each pass."""
    with silent():  # onnx_ir logs a line for each input of an invalid graph; the model check reports it later
        model = onnx_ir.from_proto(proto)
    changed = []
    for name, graph_pass in passes.items():
        with silent():  # it logs the traceback of a failure, after which the check of the model fails, too
            common.ShapeInferencePass()(model)
        before = _connections(model.graph)
        graph_pass(model.graph)
        if _connections(model.graph) != before:
            changed.append(name)
        common.RemoveUnusedNodesPass()(model)
    return onnx_ir.to_proto(model), tuple(changed)


def _connections(graph: onnx_ir.Graph) -> list[tuple[onnx_ir.Node, tuple[onnx_ir.Value | None, ...]]]:
    return [(node, tuple(node.inputs)) for node in graph]
