"""Explicit padding: a separate node pads the input of a convolution that is faster without padding.

    conv(x, W, b, pads) = conv(pad(x), W, b)

ONNX Runtime's kernel computes KERNEL_PIXELS pixels of an output row at once. It computes pixels that depend on the
padding one by one, and also the pixels that remain at the end of a row. For a row of 12 pixels with padding 1, that is
2 single pixels, one group of 6, and 4 single pixels; without padding, it is two groups of 6.

The separate node must keep the kernel's blocked layout, and ONNX Runtime must not merge it back into the convolution:

    pad(x) = depthwise_conv1x1(x, ones, pads)    where the channels fill whole blocks
    pad(x) = relu(pad(x))                        where x comes from a ReLU; ONNX Runtime merges a Pad only if the
                                                 convolution reads it directly
"""

import numpy as np
import onnx_ir as ir

from netkit.export.passes.ir import Writer, has_known_shape, is_plain_conv, pads, sample_shape

# output pixels of a row; 3x3 convolutions (16 to 128 channels, rows of 4 to 56 pixels) were faster at multiples of 6
KERNEL_PIXELS = 6
BLOCK_CHANNELS = 16  # channels in a block of ONNX Runtime's convolution layout with AVX-512; 8 without


def explicit_padding(graph: ir.Graph) -> None:
    """Move the padding of a Conv into a separate node, if the Conv then computes fewer single pixels."""
    for conv in graph:
        if not is_plain_conv(conv) or not _has_fewer_single_pixels_unpadded(conv):
            continue
        source, (top, left, bottom, right) = conv.inputs[0], pads(conv)
        assert source is not None
        writer, producer, channels = Writer(graph, conv.outputs[0]), source.producer(), sample_shape(source)[0]
        if channels % BLOCK_CHANNELS == 0:
            ones = writer.weights(np.ones((channels, 1, 1, 1)))
            padded = writer.op("Conv", source, ones, group=channels, pads=(top, left, bottom, right))
        elif producer is not None and producer.op_type == "Relu":
            border = writer.integers([0, 0, top, left, 0, 0, bottom, right])
            padded = writer.op("Relu", writer.op("Pad", source, border))
        else:
            continue
        attributes = {name: value for name, value in conv.attributes.items() if name != "pads"}
        writer.replace_with(writer.op("Conv", padded, *filter(None, conv.inputs[1:]), **attributes))


def _has_fewer_single_pixels_unpadded(conv: ir.Node) -> bool:
    source, output = conv.inputs[0], conv.outputs[0]
    strides = conv.attributes.get_ints("strides", [1, 1])
    if not has_known_shape(source) or not has_known_shape(output):
        return False
    if len(sample_shape(output)) != 3 or max(strides) > 1:
        return False
    _, left, _, right = pads(conv)
    width = sample_shape(output)[-1]
    return width >= KERNEL_PIXELS and width % KERNEL_PIXELS < left + right - 1
