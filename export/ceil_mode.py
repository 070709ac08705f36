"""Pools with ceil_mode=True whose last window would start in the padding: PyTorch and ONNX Runtime leave it out.

The shape inference of onnx (1.23) counts it. The model would be invalid if a linear layer follows, so such pools are
written without ceil_mode, and with padding at the end where it has an effect.
"""

import operator

import onnx
from onnx import helper


def drop_ceil_mode(proto: onnx.ModelProto) -> None:
    """Change these pools in `proto`.

    If ceil_mode has an effect on another axis, only a MaxPool changes, because padding changes averages. ONNX Runtime
    allows less padding than the size of the kernel.
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
    """The padding that the last window of an axis needs beyond `end`. None if it would start in the padding."""
    padded = begin + size + end
    start = -(-(padded - width) // stride) * stride
    return start + width - padded if start < begin + size else None
