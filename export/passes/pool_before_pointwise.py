"""Pool before pointwise: an average pool after a 1x1 convolution moves in front of it.

    avg_pool(conv1x1(x, W, b)) = conv1x1(avg_pool(x), W, b)

Both are linear: the convolution mixes channels, and the pool averages positions. A pool with strides above 1 leaves
fewer positions for the convolution to compute.
"""

import onnx_ir as ir

from netkit.export.passes.ir import Writer, constant, is_plain_conv, pads, sole_producer


def pool_before_pointwise(graph: ir.Graph) -> None:
    """Swap a 1x1 Conv and the AveragePool after it, if the pool reduces the number of positions."""
    for pool in graph:
        conv = sole_producer(pool.inputs[0], "Conv") if pool.op_type == "AveragePool" else None
        if not (conv and is_plain_conv(conv) and conv.inputs[0]) or any((*pads(pool), *pads(conv))):
            continue
        pool_strides, conv_strides = (tuple(node.attributes.get_ints("strides", [1, 1])) for node in (pool, conv))
        pointwise = constant(conv.inputs[1]).shape[2:] == (1, 1) and conv_strides == (1, 1)
        if pointwise and min(pool_strides) > 1:
            writer = Writer(graph, pool.outputs[0])
            pooled = writer.op("AveragePool", conv.inputs[0], **pool.attributes)
            writer.replace_with(writer.op("Conv", pooled, *filter(None, conv.inputs[1:]), **conv.attributes))
