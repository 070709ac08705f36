"""Global average pool: the mean over height and width becomes a GlobalAveragePool.

    mean(x, over H and W) = flatten(global_average_pool(x))

ONNX Runtime computes GlobalAveragePool in the blocked layout of its convolutions. For a ReduceMean it converts the
feature maps back to the plain layout.
"""

import onnx_ir as ir

from netkit.export.passes.ir import Writer, is_spatial_mean


def global_average_pool(graph: ir.Graph) -> None:
    """Replace each ReduceMean over height and width that has keepdims=0."""
    for mean in graph:
        if is_spatial_mean(mean) and not mean.attributes.get_int("keepdims", 1):
            maps = mean.inputs[0]
            assert maps is not None
            writer = Writer(graph, mean.outputs[0])
            writer.replace_with(writer.op("Flatten", writer.op("GlobalAveragePool", maps)))
