"""What is known about the tensors and the nodes of an ONNX graph before it runs: types, shapes and a few values."""

import math
from functools import cache
from typing import Any, NamedTuple

from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from netkit.core.errors import ModelError, first_line

MAX_KNOWN_ELEMENTS = 1024  # of a tensor whose values are read; shapes, axes, pads and scales have fewer
MAX_LENGTH = 2**31 - 1  # of an axis, and of a number that sets one; the product of two fits in 64 bits

Values = NDArray[Any]


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
    """A node with its inputs and outputs; an omitted one is None. `label` names the node in messages."""

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


def read(tensor: TensorProto, label: str) -> Values | None:
    """Return the values of a tensor, or None if it has many. Raises ModelError if they do not fit its shape."""
    if math.prod(tensor.dims) > MAX_KNOWN_ELEMENTS:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as exc:
        raise ModelError(f"{label}: its values do not match its shape: {first_line(exc)}") from None


def has_large(values: Values) -> bool:
    """Whether an integer exceeds MAX_LENGTH, the largest number in a shape."""
    return values.dtype.kind in "iu" and bool((abs(values.astype(float)) > MAX_LENGTH).any())
