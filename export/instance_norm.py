"""Make instance norms as accurate in ONNX Runtime as in PyTorch."""

import numpy as np
import onnx


def center_instance_norms(proto: onnx.ModelProto) -> None:
    """Subtract the mean before each InstanceNormalization, which torch's exporter also uses for group norms.

    The result is equal up to rounding, but more accurate: the operator computes the mean in float32 in ONNX Runtime,
    and in float64 in PyTorch. If the pixels of a channel differ little, the logit error was 2 to 5 times that of
    PyTorch. With the mean subtracted, it is about that of PyTorch.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in proto.graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        maps = node.input[0] if node.op_type == "InstanceNormalization" else ""
        if maps in ranks:
            axes, mean, centered = (f"{node.output[0]}.{name}" for name in ("axes", "mean", "centered"))
            pixel_axes = np.arange(2, ranks[maps], dtype=np.int64)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(pixel_axes, axes))
            nodes.append(onnx.helper.make_node("ReduceMean", [maps, axes], [mean], name=mean))
            nodes.append(onnx.helper.make_node("Sub", [maps, mean], [centered], name=centered))
            node.input[0] = centered
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
