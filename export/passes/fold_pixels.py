"""Fold pixels: the scale and shift of the pixels become part of the first convolution.

    conv(scale * x + shift, W, b) = conv(x, W * scale, b + sum(W * shift))

`scale` and `shift` are per input channel, and the sum runs over the input channels and the kernel's positions. The pass
applies to convolutions without padding. With padding, the pixels would need a border of their own, and the additional
node that writes it takes as long as the scaling.
"""

import numpy as np
import onnx_ir as ir

from netkit.export.passes.ir import (
    Float64Array,
    Writer,
    constant,
    has_known_shape,
    is_constant,
    is_plain_conv,
    pads,
    sample_shape,
    sole_producer,
)


def fold_pixels(graph: ir.Graph) -> None:
    """Fold a Mul and an Add into the Conv that reads their result."""
    for conv in graph:
        scaling = _scaling_before(conv)
        if scaling is None:
            continue
        pixels, scale, shift = scaling
        writer = Writer(graph, conv.outputs[0])
        kernel = constant(conv.inputs[1])
        bias = (kernel * shift).sum(axis=(1, 2, 3)) + (constant(conv.inputs[2]) if len(conv.inputs) > 2 else 0)
        weights = writer.weights(kernel * scale), writer.weights(bias)
        strides = conv.attributes.get_ints("strides", [1, 1])
        writer.replace_with(writer.op("Conv", pixels, *weights, strides=strides))


def _scaling_before(conv: ir.Node) -> tuple[ir.Value, Float64Array, Float64Array] | None:
    """Return pixels, scale (C, 1, 1) and shift (C, 1, 1), if `conv` is plain without padding and reads such a sum."""
    add = sole_producer(conv.inputs[0], "Add") if is_plain_conv(conv) and not any(pads(conv)) else None
    mul = sole_producer(add.inputs[0], "Mul") if add else None
    if not (add and mul and is_constant(add.inputs[1]) and is_constant(mul.inputs[1])):
        return None
    pixels, channels = mul.inputs[0], constant(conv.inputs[1]).shape[1]
    if pixels is None or not has_known_shape(pixels) or sample_shape(pixels)[:1] != (channels,):
        return None
    scale, shift = (_per_channel(node.inputs[1], channels) for node in (mul, add))
    if scale is None or shift is None:
        return None
    return pixels, scale, shift


def _per_channel(value: ir.Value | None, channels: int) -> Float64Array | None:
    """Return a constant as (channels, 1, 1), or None if it varies over the batch or over positions."""
    array, shape = constant(value), (1, channels, 1, 1)
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    return np.broadcast_to(array, shape)[0] if fits else None
