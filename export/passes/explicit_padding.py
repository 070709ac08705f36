"""Explicit padding: a separate node pads the input of a convolution that is faster without padding.

    conv(x, W, b, pads) = conv(pad(x), W, b)

With AVX-512, ONNX Runtime's kernel computes 6 pixels of an output row at once. It computes pixels that depend on the
padding one by one, and also the pixels that remain at the end of a row. For a row of 12 pixels with padding 1, that is
2 single pixels, one group of 6, and 4 single pixels; without padding, it is two groups of 6. With AVX2, the groups are
smaller, and a single pixel loses less.

The separate node takes time, too, and ONNX Runtime must not merge it back into the convolution. Each form has its pass:

    explicit_padding     pad(x) = relu(pad(x))                        where x comes from a ReLU
    depthwise_padding    pad(x) = depthwise_conv1x1(x, ones, pads)    where the channels fill whole blocks

`scripts/bench/passes.py --padding` measures both on chains of convolutions; docs/speed.md has the table. A pass applies
by default only where it gains with AVX-512 and does not lose with AVX2.
"""

import numpy as np
import onnx_ir as ir

from netkit.export.passes.ir import Writer, constant, has_known_shape, is_plain_conv, pads, sample_shape

BLOCK_CHANNELS = 16  # channels in a block of ONNX Runtime's convolution layout with AVX-512; 8 with AVX2
# explicit_padding gained at both instruction sets for kernels of 9 on maps of 12 to 24 pixels, with 10 to 40 channels
MIN_KERNEL_WIDTH = 9
MAP_WIDTHS = range(12, 25)
# depthwise_padding gained with AVX-512 for rows of 6 to 24 pixels, and lost with AVX2
GROUP_PIXELS = 6
ROW_WIDTHS = range(GROUP_PIXELS, 25)


def explicit_padding(graph: ir.Graph) -> None:
    """Move the padding of a Conv with a wide kernel after a ReLU into a Pad and a second ReLU.

    ONNX Runtime merges a Pad only if the convolution reads it directly.
    """
    for conv in graph:
        source = conv.inputs[0] if _is_padded_conv(conv) else None
        producer = source.producer() if source else None
        if source is None or producer is None or producer.op_type != "Relu":
            continue
        channels, _, width = sample_shape(source)
        is_wide = constant(conv.inputs[1]).shape[3] >= MIN_KERNEL_WIDTH and width in MAP_WIDTHS
        if is_wide and channels % BLOCK_CHANNELS:
            writer, (top, left, bottom, right) = Writer(graph, conv.outputs[0]), pads(conv)
            border = writer.integers([0, 0, top, left, 0, 0, bottom, right])
            _replace(writer, conv, writer.op("Relu", writer.op("Pad", source, border)))


def depthwise_padding(graph: ir.Graph) -> None:
    """Move the padding of a Conv into a depthwise 1x1 Conv, if the Conv then computes fewer single pixels."""
    for conv in graph:
        source = conv.inputs[0] if _is_padded_conv(conv) else None
        if source is None or sample_shape(source)[0] % BLOCK_CHANNELS:
            continue
        channels, width, (_, left, _, right) = sample_shape(source)[0], sample_shape(conv.outputs[0])[-1], pads(conv)
        if width in ROW_WIDTHS and width % GROUP_PIXELS < left + right - 1:
            writer = Writer(graph, conv.outputs[0])
            ones = writer.weights(np.ones((channels, 1, 1, 1)))
            _replace(writer, conv, writer.op("Conv", source, ones, group=channels, pads=pads(conv)))


def _is_padded_conv(conv: ir.Node) -> bool:
    """Whether the node is a plain Conv of stride 1 with padding and known shapes."""
    if not is_plain_conv(conv) or not any(pads(conv)) or max(conv.attributes.get_ints("strides", [1, 1])) > 1:
        return False
    values = conv.inputs[0], conv.outputs[0]
    return all(value and has_known_shape(value) and len(sample_shape(value)) == 3 for value in values)


def _replace(writer: Writer, conv: ir.Node, padded: ir.Value) -> None:
    attributes = {name: value for name, value in conv.attributes.items() if name != "pads"}
    writer.replace_with(writer.op("Conv", padded, *filter(None, conv.inputs[1:]), **attributes))
