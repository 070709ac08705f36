"""Pad channels: convolutions get output channels that are 0, up to a multiple such as 16.

    conv(x, [W; 0], [b; 0]) = [conv(x, W, b); 0]        the convolution that is padded
    f([x; 0]) = [f(x); 0]                               ReLU, pools, concatenation, batch normalization
    conv([x; 0], [V, 0], b) = conv(x, V, b)             the layer that drops the padding again

ONNX Runtime's layout for convolutions has blocks of 16 channels with AVX-512 and of 8 with AVX2. If the channels do
not fill whole blocks, it converts to the plain layout before a concatenation, a batch normalization or the next
convolution.
"""

from itertools import accumulate

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from netkit.export.passes.ir import (
    Float64Array,
    Writer,
    constant,
    has_known_shape,
    is_constant,
    is_plain_conv,
    is_spatial_mean,
    sample_shape,
)

ChannelMap = NDArray[np.int64]  # for each channel of a padded value: its index before padding, or PADDING
PADDING = -1
VARIANCE_INPUT = 4  # of a BatchNormalization; padded with 1, the other inputs with 0
CHANNELWISE_OPS = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool")  # a channel of 0 gives a channel of 0


def pad_channels(graph: ir.Graph, *, multiple: int) -> None:
    """Pad each plain Conv whose consumers all keep new channels at 0 or drop them."""
    padded: dict[ir.Value, ChannelMap] = {}
    for node in graph:
        output = node.outputs[0]
        if any(source in padded for source in node.inputs):
            channels = _adapt_inputs(Writer(graph, output), node, padded)
            if channels is not None:
                _set_channels(output, channels, padded)
        missing = -sample_shape(output)[0] % multiple if _can_be_padded(node) else 0
        if missing:
            channels = np.r_[np.arange(sample_shape(output)[0]), [PADDING] * missing]
            writer = Writer(graph, output)
            for index, weights in enumerate(node.inputs[1:], start=1):
                node.replace_input_with(index, writer.weights(_remapped(constant(weights), channels, axis=0)))
            _set_channels(output, channels, padded)


def _set_channels(value: ir.Value, channels: ChannelMap, padded: dict[ir.Value, ChannelMap]) -> None:
    assert value.shape is not None
    padded[value], value.shape = channels, ir.Shape([value.shape[0], len(channels), *value.shape[2:]])


def _adapt_inputs(writer: Writer, node: ir.Node, padded: dict[ir.Value, ChannelMap]) -> ChannelMap | None:
    """Adapt the node's weights to its padded inputs; returns the channels of its output, None if it drops them."""
    sources = [source for source in node.inputs if source is not None]
    if node.op_type == "Concat":
        parts = [padded.get(source, np.arange(sample_shape(source)[0])) for source in sources]
        starts = accumulate((int((part != PADDING).sum()) for part in parts[:-1]), initial=0)
        shifted = [np.where(part == PADDING, PADDING, part + start) for part, start in zip(parts, starts, strict=True)]
        return np.concatenate(shifted)
    channels = padded[sources[0]]
    if node.op_type in ("Conv", "Gemm"):
        node.replace_input_with(1, writer.weights(_remapped(constant(sources[1]), channels, axis=1)))
        return None
    norm_weights = sources[1:] if node.op_type == "BatchNormalization" else ()
    for index, weights in enumerate(norm_weights, start=1):
        remapped = _remapped(constant(weights), channels, axis=0, fill=index == VARIANCE_INPUT)
        node.replace_input_with(index, writer.weights(remapped))
    return channels


def _remapped(weights: Float64Array, channels: ChannelMap, *, axis: int, fill: float = 0) -> Float64Array:
    """The weights with an entry for each padded channel along `axis`; new channels get `fill`."""
    remapped = weights.take(channels, axis=axis)
    np.moveaxis(remapped, axis, 0)[channels == PADDING] = fill
    return remapped


def _can_be_padded(node: ir.Node) -> bool:
    return is_plain_conv(node) and _consumers_accept_padding(node.outputs[0])


def _consumers_accept_padding(value: ir.Value) -> bool:
    """Whether the shape is known, and every consumer keeps new channels at 0 or drops them."""
    if not has_known_shape(value) or value.is_graph_output():
        return False
    return all(_accepts_padding(use.node, use.idx) for use in value.uses())


def _accepts_padding(node: ir.Node, input_index: int) -> bool:
    attributes, constant_weights = node.attributes, all(map(is_constant, node.inputs[1:]))
    match node.op_type:
        case "Conv":
            return input_index == 0 and is_plain_conv(node)
        case "Gemm":
            one_column_per_channel = attributes.get_int("transB", 0) == 1 and attributes.get_int("transA", 0) == 0
            return input_index == 0 and constant_weights and one_column_per_channel
        case "Concat":
            keeps_channels = attributes.get_int("axis", 0) == 1
        case "Flatten":
            keeps_channels = attributes.get_int("axis", 1) == 1 and _has_one_pixel(node.inputs[0])
        case "ReduceMean":
            keeps_channels = is_spatial_mean(node)
        case "BatchNormalization":
            keeps_channels = input_index == 0 and constant_weights
        case op_type:
            keeps_channels = op_type in CHANNELWISE_OPS
    return keeps_channels and len(node.outputs) == 1 and _consumers_accept_padding(node.outputs[0])


def _has_one_pixel(value: ir.Value | None) -> bool:
    return value is not None and sample_shape(value)[1:] == (1, 1)
