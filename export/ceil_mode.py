"""Remove ceil_mode from pools whose last window would start in the padding.

PyTorch and ONNX Runtime leave out this window, but the shape inference of onnx (1.23) counts it. If a linear layer
follows, the model is then invalid. Such pools are written without ceil_mode. Along an axis where ceil_mode has an
effect, padding at the end replaces it.
"""

import operator

import onnx
from onnx import helper


def drop_ceil_mode(proto: onnx.ModelProto) -> None:
    """Rewrite these pools in `proto`, in place.

    If ceil_mode has an effect on another axis, an AveragePool does not change, because padding would change its
    averages. A MaxPool does not change if the padding would be as large as its kernel, which ONNX Runtime rejects.
    """
    graph = proto.graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type not in ("MaxPool", "AveragePool") or not attributes.get("ceil_mode"):
            continue
        sizes = [axis.dim_value for axis in shapes.get(node.input[0], ())][2:]  # 0 if the size is not known
        if not all(sizes) or not sizes:
            continue
        kernel = attributes["kernel_shape"]
        strides, dilations = (attributes.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
        pads = attributes.get("pads", [0] * 2 * len(kernel))
        widths = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
        begins, ends = pads[: len(kernel)], pads[len(kernel) :]
        missing = list(map(_missing, sizes, widths, strides, begins, ends))
        more = [end + (count or 0) for end, count in zip(ends, missing, strict=True)]
        is_exact = not any(missing) or (node.op_type == "MaxPool" and all(map(operator.lt, more, kernel)))
        if None in missing and is_exact:
            kept = [attribute for attribute in node.attribute if attribute.name not in ("ceil_mode", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("pads", [*begins, *more])])


def _missing(size: int, width: int, stride: int, begin: int, end: int) -> int | None:
    """Return the padding beyond `end` that the last window of an axis needs; None if it would start in the padding."""
    padded = begin + size + end
    start = -(-(padded - width) // stride) * stride
    return start + width - padded if start < begin + size else None
