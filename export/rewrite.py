"""Rewrite: the same function by other operators, which ONNX Runtime computes faster. The parity gate decides.

Each pass changes a graph wherever it finds its pattern, in any network, and is exact but for rounding.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from export.collapse import collapse
from export.graph import Writer, is_constant, maker, numbers, pads, sizes

Pass = Callable[[ir.Graph], None]
ROW = 6  # pixels; of 3x3 convolutions of 16 to 128 channels and 4 to 56 pixels in a row, just those multiples gained
BLOCK = 16  # channels that lie together in ONNX Runtime's layout for convolutions, with AVX-512; else 8


def rewritten(proto: onnx.ModelProto, passes: Iterable[Pass]) -> onnx.ModelProto:
    """`proto` after those passes, one after the other."""
    model = ir.from_proto(proto)
    for step in passes:
        common.ShapeInferencePass()(model)
        step(model.graph)
        common.RemoveUnusedNodesPass()(model)
    return ir.to_proto(model)


def fold_pixels(graph: ir.Graph) -> None:
    """(pixel * scale + shift) goes into the convolution after it, whose padding becomes the pixel that gives 0."""
    for conv in graph:
        shifted = maker(conv.inputs[0], "Add") if conv.op_type == "Conv" else None
        scaled = maker(shifted.inputs[0], "Mul") if shifted else None
        if not (
            shifted and scaled and _is_plain(conv) and is_constant(shifted.inputs[1]) and is_constant(scaled.inputs[1])
        ):
            continue
        pixels, kernel = scaled.inputs[0], numbers(conv.inputs[1])
        scale, shift = (np.broadcast_to(numbers(node.inputs[1]), (kernel.shape[1], 1, 1)) for node in (scaled, shifted))
        grey = -shift / scale
        if pixels is None or (any(pads(conv)) and np.ptp(grey) > 0):
            continue
        writer = Writer(graph, conv.outputs[0])
        if any(pads(conv)):
            top, left, bottom, right = pads(conv)
            around = writer.integers([0, 0, top, left, 0, 0, bottom, right])
            pixels = writer.op("Pad", pixels, around, writer.weights(grey.ravel()[0]))
        bias = (kernel * shift).sum(axis=(1, 2, 3)) + (numbers(conv.inputs[2]) if len(conv.inputs) > 2 else 0)
        strides = conv.attributes.get_ints("strides", [1, 1])
        weights = writer.weights(kernel * scale), writer.weights(bias)
        writer.end_with(writer.op("Conv", pixels, *weights, strides=strides))


def collapse_affine(graph: ir.Graph) -> None:
    """Layers without an activation between them are computed as one: see export.collapse."""
    collapse(graph)


def pool_before_pointwise(graph: ir.Graph) -> None:
    """AveragePool(Conv1x1(x)) is Conv1x1(AveragePool(x)), and the convolution has fewer pixels."""
    for pool in graph:
        conv = maker(pool.inputs[0], "Conv") if pool.op_type == "AveragePool" else None
        if not (conv and _is_plain(conv) and conv.inputs[0]) or any((*pads(pool), *pads(conv))):
            continue
        strides = (*pool.attributes.get_ints("strides", [1, 1]), *conv.attributes.get_ints("strides", [1, 1]))
        if numbers(conv.inputs[1]).shape[2:] == (1, 1) and strides[2:] == (1, 1) and min(strides[:2]) > 1:
            writer = Writer(graph, pool.outputs[0])
            pooled = writer.op("AveragePool", conv.inputs[0], **pool.attributes)
            writer.end_with(writer.op("Conv", pooled, *filter(None, conv.inputs[1:]), **conv.attributes))


def pool_all_places(graph: ir.Graph) -> None:
    """The mean over all places is a GlobalAveragePool, which goes on in ONNX Runtime's layout for convolutions."""
    for mean in graph:
        places = mean.inputs[0]
        if mean.op_type != "ReduceMean" or places is None or len(mean.inputs) < 2 or not is_constant(mean.inputs[1]):
            continue
        keeps: int = mean.attributes.get_int("keepdims", 1)
        if not keeps and sorted(numbers(mean.inputs[1]).tolist()) in ([2, 3], [-2, -1]) and len(sizes(places)) == 3:
            writer = Writer(graph, mean.outputs[0])
            writer.end_with(writer.op("Flatten", writer.op("GlobalAveragePool", places)))


def pad_beforehand(graph: ir.Graph) -> None:
    """A border is made before the convolution that needs it, where rows then come out even.

    ONNX Runtime computes ROW pixels of a row at once, but those that a border touches one by one: of 12, padded by 1,
    six and then six more. A border comes from a depthwise convolution by 1, which stays in the blocked layout.
    """
    for conv in graph:
        source, around = conv.inputs[0], pads(conv)
        if not (conv.op_type == "Conv" and any(around) and _is_plain(conv) and source is not None):
            continue
        channels, width, strides = (
            sizes(source)[0],
            sizes(conv.outputs[0])[-1],
            conv.attributes.get_ints("strides", [1]),
        )
        if width < ROW or width % ROW >= around[1] + around[3] - 1 or max(strides) > 1:
            continue
        writer, producer = Writer(graph, conv.outputs[0]), source.producer()
        if channels % BLOCK == 0:
            kernel = writer.weights(np.ones((channels, 1, 1, 1)))
            padded = writer.op("Conv", source, kernel, group=channels, pads=around)
        elif producer is not None and producer.op_type == "Relu":  # again, that the two are not made one
            border = writer.integers([0, 0, *around[:2], 0, 0, *around[2:]])
            padded = writer.op("Relu", writer.op("Pad", source, border))
        else:
            continue
        rest = {name: value for name, value in conv.attributes.items() if name != "pads"}
        writer.end_with(writer.op("Conv", padded, *filter(None, conv.inputs[1:]), **rest))


def _is_plain(conv: ir.Node) -> bool:
    """Whether a convolution has constant weights, one group, no dilation, and explicit padding."""
    attributes = conv.attributes
    explicit = attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    even = attributes.get_int("group", 1) == 1 and set(attributes.get_ints("dilations", [1, 1])) == {1}
    return explicit and even and all(map(is_constant, conv.inputs[1:]))


LESS_WORK = (fold_pixels, collapse_affine, pool_before_pointwise, pool_all_places)
PASSES = (*LESS_WORK, pad_beforehand)
