"""Widen: new channels, all 0, where ONNX Runtime computes several at once and takes a rest apart.

Its layout for convolutions has blocks of 16 channels with AVX-512, of 8 with AVX2. Where channels fill no block, it
goes back to the plain layout for a concatenation, a batch normalisation, or the next convolution.
"""

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from netkit.export.passes.ir import Doubles, Writer, is_constant, is_plain, is_sized, numbers, sizes

Channels = NDArray[np.int64]  # of a wider value: which channel of before each is, NEW where it is none
NEW = -1
VARIANCE = 4  # the place of what a batch normalisation divides by
ALIKE = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool")  # they compute each channel by itself, and 0 from 0


def widen(multiple: int) -> Callable[[ir.Graph], None]:
    """The pass that makes convolutions' channels such a multiple, where all that follows can leave the new ones out."""

    def pad_channels(graph: ir.Graph) -> None:
        wider: dict[ir.Value, Channels] = {}
        for node in graph:
            output = node.outputs[0]
            if any(source in wider for source in node.inputs):
                channels = _taken(Writer(graph, output), node, wider)
                if channels is not None:
                    _become(output, channels, wider)
            new = -sizes(output)[0] % multiple if _is_widened(node) else 0
            if new:
                channels = np.r_[np.arange(sizes(output)[0]), [NEW] * new]
                writer = Writer(graph, output)
                for place, weights in enumerate(node.inputs[1:], start=1):
                    node.replace_input_with(place, writer.weights(_spread(numbers(weights), channels, axis=0)))
                _become(output, channels, wider)

    return pad_channels


def _become(value: ir.Value, channels: Channels, wider: dict[ir.Value, Channels]) -> None:
    assert value.shape is not None
    wider[value], value.shape = channels, ir.Shape([value.shape[0], len(channels), *value.shape[2:]])


def _taken(writer: Writer, node: ir.Node, wider: dict[ir.Value, Channels]) -> Channels | None:
    """Let the node take its inputs, which are wider now; gives the channels of its output, None where it is not."""
    sources = [source for source in node.inputs if source is not None]
    if node.op_type == "Concat":
        parts = [wider.get(source, np.arange(sizes(source)[0])) for source in sources]
        starts = accumulate((int((part != NEW).sum()) for part in parts[:-1]), initial=0)
        moved = (np.where(part == NEW, NEW, part + start) for part, start in zip(parts, starts, strict=True))
        return np.concatenate(list(moved))
    channels = wider[sources[0]]
    if node.op_type in ("Conv", "Gemm"):
        node.replace_input_with(1, writer.weights(_spread(numbers(sources[1]), channels, axis=1)))
        return None
    for place, weights in enumerate(sources[1:], start=1):  # of a batch normalisation
        node.replace_input_with(
            place, writer.weights(_spread(numbers(weights), channels, axis=0, new=place == VARIANCE))
        )
    return channels


def _spread(weights: Doubles, channels: Channels, *, axis: int, new: float = 0) -> Doubles:
    """Those of each channel, and `new` for the new ones."""
    spread = weights.take(channels, axis=axis)
    np.moveaxis(spread, axis, 0)[channels == NEW] = new
    return spread


def _is_widened(node: ir.Node) -> bool:
    return node.op_type == "Conv" and is_plain(node) and _may_be_wider(node.outputs[0])


def _may_be_wider(value: ir.Value) -> bool:
    """Whether the sizes of the maps are known, and all that follows hands new channels on or leaves them out."""
    return is_sized(value) and not value.is_graph_output() and all(_takes(use.node, use.idx) for use in value.uses())


def _takes(node: ir.Node, place: int) -> bool:
    attributes, constant = node.attributes, all(map(is_constant, node.inputs[1:]))
    match node.op_type:
        case "Conv":
            return place == 0 and is_plain(node)
        case "Gemm":
            by_columns = attributes.get_int("transB", 0) == 1 and attributes.get_int("transA", 0) == 0
            return place == 0 and constant and by_columns
        case "Concat":
            alike = attributes.get_int("axis", 0) == 1
        case "Flatten":
            alike = attributes.get_int("axis", 1) == 1 and _is_of_points(node.inputs[0])
        case "BatchNormalization":
            alike = place == 0 and constant
        case kind:
            alike = kind in ALIKE
    return alike and len(node.outputs) == 1 and _may_be_wider(node.outputs[0])


def _is_of_points(value: ir.Value | None) -> bool:
    return value is not None and sizes(value)[1:] == (1, 1)
