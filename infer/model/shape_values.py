"""The integers of an ONNX graph that determine shapes, computed from constants and lengths of axes.

They may be sums and products of these, but never negative. Therefore no length shrinks as the batch grows.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from netkit.infer.model.tensors import MAX_KNOWN_ELEMENTS, MAX_LENGTH, Tensor, Values, attribute, has_large, read

INTEGERS = (np.int32, np.int64)  # the types of integers that determine shapes
CASTS = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}
ZERO, ONE = np.array([0]), np.array([1])


def evaluate(node: NodeProto, inputs: Sequence[Tensor | None], data: Sequence[TensorProto | None]) -> Values | None:
    """Return the values of the node's output if it is a constant, or integers that follow from constants and shapes."""
    if node.op_type == "Constant":
        return _constant(node)
    if node.op_type in ("Shape", "Size") and inputs and inputs[0]:
        shape = inputs[0].shape[attribute(node, "start", 0) : attribute(node, "end", MAX_LENGTH)]
        values = np.array(shape if node.op_type == "Shape" else inputs[0].elements, np.int64)
    elif node.op_type in RULES and data and all(data):
        operands = [numpy_helper.to_array(tensor) for tensor in data if tensor]
        dtype = operands[0].dtype
        constants = node.op_type in ("Add", "Mul", "Concat") or all(i and i.constant is not None for i in inputs[1:])
        if not constants or not all(operand.dtype in INTEGERS for operand in operands):
            return None
        try:
            # in int64, because int32 wraps around; MAX_LENGTH fits in both
            values = RULES[node.op_type](node, *(operand.astype(np.int64) for operand in operands))
        except (ValueError, IndexError, TypeError):  # onnx's shape inference reports the error
            return None
        if values.size > MAX_KNOWN_ELEMENTS or has_large(values):
            return None
        return values.astype(CASTS[attribute(node, "to")] if node.op_type == "Cast" else dtype)
    else:
        return None
    return values if values.size <= MAX_KNOWN_ELEMENTS and not has_large(values) else None


def _constant(node: NodeProto) -> Values | None:
    for entry in node.attribute:
        value = helper.get_attribute_value(entry)
        if isinstance(value, TensorProto):
            return read(value, node.output[0])
        dtype = np.int64 if entry.name in ("value_int", "value_ints") else np.float32
        if entry.name in ("value_int", "value_ints", "value_float", "value_floats"):
            values = np.array(value, dtype)
            return values if values.size <= MAX_KNOWN_ELEMENTS else None
    return None


def _not_negative(*values: Values) -> None:
    """Raise ValueError for a negative number: a length must not shrink as the batch grows."""
    if any((value < 0).any() for value in values):
        raise ValueError("negative")


def _add(node: NodeProto, x: Values, y: Values) -> Values:
    _not_negative(x + y)  # a negative constant subtracts
    return np.asarray(x + y)


def _multiply(node: NodeProto, x: Values, y: Values) -> Values:
    _not_negative(x, y)
    return np.asarray(x * y)


def _subtract(node: NodeProto, x: Values, y: Values) -> Values:
    _not_negative(x, y, x - y)
    return np.asarray(x - y)


def _divide(node: NodeProto, x: Values, y: Values) -> Values:
    """Divide exactly: N // 65 is 0 for one image and for 64, but not for more."""
    _not_negative(x, y - 1)
    if (x % y).any():
        raise ValueError("not a multiple")
    return np.asarray(x // y)


def _cast(node: NodeProto, x: Values) -> Values:
    if attribute(node, "to") not in CASTS:
        raise ValueError("not an integer")
    return x


def _slice(node: NodeProto, x: Values, start: Values, end: Values, axis: Values = ZERO, step: Values = ONE) -> Values:
    if x.ndim != 1 or axis.item() not in (0, -1) or step.item() < 1:
        raise ValueError("not a part of a shape")
    return x[start.item() : end.item() : step.item()]


RULES: Mapping[str, Callable[..., Values]] = {
    "Abs": lambda node, x: np.abs(x),
    "Add": _add,
    "Cast": _cast,
    "Concat": lambda node, *parts: np.concatenate(parts, axis=attribute(node, "axis")),
    "Div": _divide,
    "Gather": lambda node, x, index: np.take(x, index, axis=attribute(node, "axis", 0)),
    "Identity": lambda node, x: x,
    "Mul": _multiply,
    "Reshape": lambda node, x, shape: x.reshape(shape),
    "Slice": _slice,
    "Squeeze": lambda node, x, axes=None: np.squeeze(x, None if axes is None else tuple(axes)),
    "Sub": _subtract,
    "Unsqueeze": lambda node, x, axes: np.expand_dims(x, tuple(axes)),
}
