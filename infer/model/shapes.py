"""The shape of every tensor of an ONNX graph for one batch size, without running the graph.

A shape may depend on the batch size, but not on the pixels. The integers that operators such as Reshape take as a shape
are computed here. They may be constants, lengths of axes, and sums and products of them, but never negative. So no
length shrinks as the batch grows: what fits for one image and for many images also fits in between.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    TypeProto,
    checker,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from netkit.core.errors import ModelError, first_line

MAX_KNOWN_ELEMENTS = 1024  # of a tensor whose values are read; shapes, axes, pads and scales have fewer
MAX_LENGTH = 2**31 - 1  # of an axis, and of a number that sets one; the product of two fits in 64 bits
SAME_TYPE = ("GroupNormalization", "MeanVarianceNormalization")  # onnx infers no shape: it is that of the first input
# the operators with inputs that set a shape; Slice, which may count to 2**63, is not among them
SHAPED_BY_INPUT = frozenset(
    """
    AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape DFT Expand HammingWindow HannWindow MelWeightMatrix
    OneHot Pad Range Reshape Resize STFT Split Tile TopK
    """.split()
)
INFERENCE_ERRORS = (
    shape_inference.InferenceError,
    checker.ValidationError,
    defs.SchemaError,
    TypeError,
    ValueError,
    LookupError,
    RuntimeError,
)

Values = NDArray[Any]
INTEGERS = (np.int32, np.int64)  # the types of numbers that set shapes
CASTS = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}
ZERO, ONE = np.array([0]), np.array([1])


class Tensor(NamedTuple):
    """The element type and shape of a tensor, and its values if they are few and the same for any batch size."""

    dtype: int
    shape: tuple[int, ...]
    constant: Values | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * item_bytes(self.dtype)


class Step(NamedTuple):
    """A node with its inputs and outputs; None is one that is left out. `label` names the node in messages."""

    node: NodeProto
    label: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]


@cache
def item_bytes(dtype: int) -> int:
    """Return the bytes of one element. Raises KeyError for a type that is unknown to NumPy."""
    return int(helper.tensor_dtype_to_np_dtype(dtype).itemsize)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def trace(proto: ModelProto, batch_size: int, name: str) -> Iterator[Step]:
    """Yield the nodes of `proto` in order, with the shapes for `batch_size` images.

    Raises ModelError if a shape depends on the pixels, or if the graph is not valid for `batch_size` images.
    """
    (opset,) = proto.opset_import
    types: dict[str, TypeProto] = {}
    tensors: dict[str, Tensor] = {}
    data: dict[str, TensorProto] = {}  # the tensors whose values are known for this batch size
    for value in proto.graph.input:
        types[value.name] = TypeProto()
        types[value.name].CopyFrom(value.type)
        types[value.name].tensor_type.shape.dim[0].dim_value = batch_size
        tensors[value.name] = _tensor(types[value.name], f"{name}: input {value.name}")
    for initializer in proto.graph.initializer:
        if initializer.name in types:
            raise ModelError(f"{name}: two tensors have the name {initializer.name!r}")
        types[initializer.name] = helper.make_tensor_type_proto(initializer.data_type, initializer.dims)
        constant = _read(initializer, f"{name}: initializer {initializer.name}")
        tensors[initializer.name] = Tensor(initializer.data_type, tuple(initializer.dims), constant)
        if constant is not None:
            data[initializer.name] = initializer
    for node in proto.graph.node:
        label = f"{name}: operator {node.op_type} ({node.name or ', '.join(map(str, node.output))})"
        if missing := [key for key in node.input if key and key not in types]:
            raise ModelError(f"{label}: its input {missing[0]!r} is not computed before it")
        if twice := [key for key in node.output if key in types]:
            raise ModelError(f"{label}: its output {twice[0]!r} is the name of another tensor")
        inputs = tuple(tensors[key] if key else None for key in node.input)
        inferred = _infer(node, opset, types, data, label)
        values = _evaluate(node, inputs, [data.get(key) for key in node.input])
        # onnx infers the shape of the first input, but ONNX Runtime broadcasts both
        if node.op_type == "PRelu" and not _broadcasts(inputs[1], inputs[0]):
            raise ModelError(f"{label}: its slope must not have more elements along an axis than its input")
        for key in filter(None, node.output):
            types[key] = inferred.get(key, TypeProto())
            tensors[key] = _tensor(types[key], label)
        if values is not None:
            (key,) = node.output
            data[key] = numpy_helper.from_array(values, key)
            if node.op_type not in ("Shape", "Size") and all(i.constant is not None for i in inputs if i):
                tensors[key] = tensors[key]._replace(constant=values)
        yield Step(node, label, inputs, tuple(tensors[key] if key else None for key in node.output))


def _broadcasts(tensor: Tensor | None, to: Tensor | None) -> bool:
    """Whether a tensor can be broadcast to the shape of another."""
    if not tensor or not to or len(tensor.shape) > len(to.shape):
        return False
    pairs = zip(reversed(tensor.shape), reversed(to.shape), strict=False)
    return all(length in (1, other) for length, other in pairs)


def _read(tensor: TensorProto, label: str) -> Values | None:
    """Return the values of a tensor, or None if it has many."""
    if math.prod(tensor.dims) > MAX_KNOWN_ELEMENTS:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as exc:
        raise ModelError(f"{label}: its values do not match its shape: {first_line(exc)}") from None


def _tensor(type_proto: TypeProto, label: str) -> Tensor:
    dims = type_proto.tensor_type.shape.dim
    if not type_proto.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        raise ModelError(f"{label}: the shape of its output must not depend on the pixels, and must be known")
    shape = tuple(dim.dim_value for dim in dims)
    if min(shape, default=0) < 0:
        raise ModelError(f"{label}: the shape of its output is {shape}; a length must not be negative")
    return Tensor(type_proto.tensor_type.elem_type, shape)


def _infer(
    node: NodeProto,
    opset: OperatorSetIdProto,
    types: Mapping[str, TypeProto],
    data: Mapping[str, TensorProto],
    label: str,
) -> Mapping[str, TypeProto]:
    """Return the types of the node's outputs."""
    names = [key for key in node.input if key]
    known = {key: data[key] for key in names if key in data}
    if node.op_type in SHAPED_BY_INPUT:
        for key, value in known.items():
            if _has_large(numpy_helper.to_array(value)):
                raise ModelError(f"{label}: its input {key!r} has a number over {MAX_LENGTH:,}")
    if node.op_type in SAME_TYPE:
        return dict.fromkeys(node.output[:1], types[names[0]]) if names else {}
    try:
        schema = defs.get_schema(node.op_type, opset.version, "")
        return shape_inference.infer_node_outputs(
            schema, node, {key: types[key] for key in names}, known, opset_imports=[opset]
        )
    except INFERENCE_ERRORS as exc:
        raise ModelError(f"{label}: is not valid: {first_line(exc)}") from None


def _evaluate(node: NodeProto, inputs: Sequence[Tensor | None], data: Sequence[TensorProto | None]) -> Values | None:
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
        except (ValueError, IndexError, TypeError):  # onnx gives the error
            return None
        if values.size > MAX_KNOWN_ELEMENTS or _has_large(values):
            return None
        return values.astype(CASTS[attribute(node, "to")] if node.op_type == "Cast" else dtype)
    else:
        return None
    return values if values.size <= MAX_KNOWN_ELEMENTS and not _has_large(values) else None


def _constant(node: NodeProto) -> Values | None:
    for entry in node.attribute:
        value = helper.get_attribute_value(entry)
        if isinstance(value, TensorProto):
            return _read(value, node.output[0])
        dtype = np.int64 if entry.name in ("value_int", "value_ints") else np.float32
        if entry.name in ("value_int", "value_ints", "value_float", "value_floats"):
            values = np.array(value, dtype)
            return values if values.size <= MAX_KNOWN_ELEMENTS else None
    return None


def _has_large(values: Values) -> bool:
    return values.dtype.kind in "iu" and bool((abs(values.astype(float)) > MAX_LENGTH).any())


def _not_negative(*values: Values) -> None:
    """Raise ValueError for a negative number: a length must not shrink as the batch grows."""
    if any((value < 0).any() for value in values):
        raise ValueError("negative")


def _add(node: NodeProto, x: Values, y: Values) -> Values:
    _not_negative(x, y)
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
