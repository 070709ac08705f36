"""Rewrite: the same function by other operators, which ONNX Runtime computes faster. The parity gate decides.

Each pass changes a graph wherever it finds its pattern, in any network, and is exact but for rounding.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from netkit.export.passes.ir import Doubles, Writer, is_constant, is_plain, is_sized, maker, numbers, pads, sizes
from netkit.export.passes.merge_linear import collapse
from netkit.export.passes.pad_channels import widen

Pass = Callable[[ir.Graph], None]
ROW = 6  # pixels; of 3x3 convolutions with 16 to 128 channels and 4 to 56 pixels in a row, multiples of that gained
LARGE = 256  # places; the mean of 112x112 was wrong by up to 1.2e-6 in float32, by 1.1e-7 when rows came first
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
            shifted and scaled and is_plain(conv) and is_constant(shifted.inputs[1]) and is_constant(scaled.inputs[1])
        ):
            continue
        pixels, kernel = scaled.inputs[0], numbers(conv.inputs[1])
        scale, shift = (_by_channel(node.inputs[1], kernel.shape[1]) for node in (scaled, shifted))
        if pixels is None or not is_sized(pixels) or sizes(pixels)[:1] != kernel.shape[1:2]:
            continue
        if scale is None or shift is None or not scale.all():
            continue
        grey = -shift / scale
        if any(pads(conv)) and np.ptp(grey) > 0:
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
    """Layers without an activation between them are computed as one: see netkit.export.passes.merge_linear."""
    collapse(graph)


def pool_before_pointwise(graph: ir.Graph) -> None:
    """AveragePool(Conv1x1(x)) is Conv1x1(AveragePool(x)), and the convolution has fewer pixels."""
    for pool in graph:
        conv = maker(pool.inputs[0], "Conv") if pool.op_type == "AveragePool" else None
        if not (conv and is_plain(conv) and conv.inputs[0]) or any((*pads(pool), *pads(conv))):
            continue
        strides = (*pool.attributes.get_ints("strides", [1, 1]), *conv.attributes.get_ints("strides", [1, 1]))
        if numbers(conv.inputs[1]).shape[2:] == (1, 1) and strides[2:] == (1, 1) and min(strides[:2]) > 1:
            writer = Writer(graph, pool.outputs[0])
            pooled = writer.op("AveragePool", conv.inputs[0], **pool.attributes)
            writer.end_with(writer.op("Conv", pooled, *filter(None, conv.inputs[1:]), **conv.attributes))


def mean_rows_first(graph: ir.Graph) -> None:
    """The mean over all places of a large map is that of its rows' means, as sums of fewer numbers are more exact."""
    for mean in graph:
        if not _is_over_places(mean):
            continue
        places, axes = mean.inputs
        assert places is not None and axes is not None
        if np.prod(sizes(places)[1:]) > LARGE:
            writer = Writer(graph, mean.outputs[0])
            rows = writer.op("ReduceMean", places, writer.integers([3]))
            writer.end_with(writer.op("ReduceMean", rows, axes, **mean.attributes))


def pool_all_places(graph: ir.Graph) -> None:
    """The mean over all places is a GlobalAveragePool, which goes on in ONNX Runtime's layout for convolutions."""
    for mean in graph:
        if _is_over_places(mean) and not mean.attributes.get_int("keepdims", 1):
            places = mean.inputs[0]
            assert places is not None
            writer = Writer(graph, mean.outputs[0])
            writer.end_with(writer.op("Flatten", writer.op("GlobalAveragePool", places)))


def pad_beforehand(graph: ir.Graph) -> None:
    """A border is made before the convolution that needs it, where rows then come out even.

    It comes from a depthwise convolution of single weights 1, which stays in ONNX Runtime's layout; or from a Pad, with
    the activation before it once more, that ONNX Runtime does not put it back into the convolution.
    """
    for conv in graph:
        if conv.op_type != "Conv" or not is_plain(conv) or not _comes_out_even(conv):
            continue
        source, around = conv.inputs[0], pads(conv)
        assert source is not None
        writer, producer, channels = Writer(graph, conv.outputs[0]), source.producer(), sizes(source)[0]
        if channels % BLOCK == 0:
            ones = writer.weights(np.ones((channels, 1, 1, 1)))
            padded = writer.op("Conv", source, ones, group=channels, pads=around)
        elif producer is not None and producer.op_type == "Relu":
            border = writer.integers([0, 0, *around[:2], 0, 0, *around[2:]])
            padded = writer.op("Relu", writer.op("Pad", source, border))
        else:
            continue
        rest = {name: value for name, value in conv.attributes.items() if name != "pads"}
        writer.end_with(writer.op("Conv", padded, *filter(None, conv.inputs[1:]), **rest))


def _comes_out_even(conv: ir.Node) -> bool:
    """Whether fewer pixels of a row are computed one by one where its border was made before.

    ONNX Runtime computes ROW pixels at once, but those that a border touches, and what is left over, one by one: of 12
    pixels, padded by 1 at each end, two, then six, then four; without, twice six.
    """
    source, output = conv.inputs[0], conv.outputs[0]
    strides = conv.attributes.get_ints("strides", [1, 1])
    if not is_sized(source) or not is_sized(output) or len(sizes(output)) != 3 or max(strides) > 1:
        return False
    _, left, _, right = pads(conv)
    width = sizes(output)[-1]
    return width >= ROW and width % ROW < left + right - 1


def _is_over_places(mean: ir.Node) -> bool:
    """Whether it is the mean over height and width of maps whose sizes are known."""
    if mean.op_type != "ReduceMean" or len(mean.inputs) < 2 or not is_constant(mean.inputs[1]):
        return False
    maps, axes = mean.inputs[0], numbers(mean.inputs[1])
    assert maps is not None
    return is_sized(maps) and len(sizes(maps)) == 3 and sorted((axes % 4).tolist()) == [2, 3]


def _by_channel(constant: ir.Value | None, channels: int) -> Doubles | None:
    """A constant as (channels, 1, 1); None where it is another from image to image, or from place to place."""
    found = numbers(constant)
    try:
        same = np.broadcast_shapes(found.shape, (1, channels, 1, 1)) == (1, channels, 1, 1)
    except ValueError:
        same = False
    return np.broadcast_to(found, (1, channels, 1, 1))[0] if same else None


LESS_WORK = (fold_pixels, collapse_affine, pool_before_pointwise, mean_rows_first, pool_all_places)
PASSES = (*LESS_WORK, pad_beforehand)


def passes(*, multiple: int) -> tuple[Pass, ...]:
    """All, and before the last that which makes channels such a multiple; by 1 it changes nothing."""
    return (*LESS_WORK, widen(multiple), pad_beforehand)
