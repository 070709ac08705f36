"""Graph passes: each replaces a pattern of ONNX operators by operators that compute the same and run faster.

A pass changes a graph wherever its pattern occurs, in any network. Every pass is exact up to rounding; the parity check
covers the result. Each module states the identity that its pass uses.
"""

from collections.abc import Callable, Iterable
from functools import partial

import onnx
import onnx_ir
from onnx_ir.passes import common

from netkit.export.passes.explicit_padding import explicit_padding
from netkit.export.passes.fold_pixels import fold_pixels
from netkit.export.passes.global_average_pool import global_average_pool
from netkit.export.passes.merge_linear import merge_linear
from netkit.export.passes.pad_channels import pad_channels
from netkit.export.passes.pool_before_pointwise import pool_before_pointwise
from netkit.export.passes.two_step_mean import two_step_mean

Pass = Callable[[onnx_ir.Graph], None]

ANY_PRECISION: tuple[Pass, ...] = (
    fold_pixels,
    merge_linear,
    pool_before_pointwise,
    two_step_mean,  # before global_average_pool, which then replaces the second step
    global_average_pool,
)
FLOAT32: tuple[Pass, ...] = (*ANY_PRECISION, explicit_padding)  # explicit_padding is for ONNX Runtime's float32 kernels


def float32_passes(*, multiple: int) -> tuple[Pass, ...]:
    """FLOAT32 with `pad_channels` before explicit_padding, which checks whether channels fill whole blocks.

    `pad_channels` pads the number of channels to a multiple of `multiple`; 1 pads nothing.
    """
    return (*ANY_PRECISION, partial(pad_channels, multiple=multiple), explicit_padding)


def apply_passes(proto: onnx.ModelProto, passes: Iterable[Pass]) -> onnx.ModelProto:
    """Return `proto` after the passes, applied in order; shapes are inferred before each pass."""
    model = onnx_ir.from_proto(proto)
    for graph_pass in passes:
        common.ShapeInferencePass()(model)
        graph_pass(model.graph)
        common.RemoveUnusedNodesPass()(model)
    return onnx_ir.to_proto(model)
