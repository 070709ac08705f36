"""Helpers that the passes share: queries on an onnx-ir graph, and a writer that replaces a value."""

from collections.abc import Sequence
from itertools import count

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

Float64Array = NDArray[np.float64]


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer or another constant."""
    return value is not None and value.const_value is not None


def constant(value: ir.Value | None) -> Float64Array:
    """The array of a constant value, in float64."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def has_known_shape(value: ir.Value | None) -> bool:
    """Whether all dimensions except the batch are known; true for constants and omitted inputs."""
    if value is None or is_constant(value):
        return True
    return value.shape is not None and all(isinstance(size, int) for size in value.shape.dims[1:])


def sample_shape(value: ir.Value) -> tuple[int, ...]:
    """The known dimensions of the value, without the batch dimension."""
    assert value.shape is not None
    return tuple(size for size in value.shape.dims[1:] if isinstance(size, int))


def sole_producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes the value, if it is a standard `op_type` operator and its output has one use."""
    node = value.producer() if value else None
    if node is None or node.op_type != op_type or node.domain:
        return None
    used_once = len(node.outputs[0].uses()) == 1 and not node.outputs[0].is_graph_output()
    return node if used_once else None


def is_2d(layer: ir.Node) -> bool:
    """Whether a Conv or a pool works over height and width; a Conv also needs constant weights."""
    if layer.op_type == "Conv":
        kernel = layer.inputs[1]
        return kernel is not None and kernel.const_value is not None and kernel.const_value.shape.rank() == 4
    return len(layer.attributes["kernel_shape"].as_ints()) == 2


def is_plain_conv(node: ir.Node) -> bool:
    """Whether the node is a 2D Conv with constant weights, one group, no dilation and explicit padding."""
    if node.op_type != "Conv" or not is_2d(node):
        return False
    attributes = node.attributes
    explicit = attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    dense = attributes.get_int("group", 1) == 1 and set(attributes.get_ints("dilations", [1, 1])) == {1}
    return explicit and dense and all(map(is_constant, node.inputs[1:]))


def pads(layer: ir.Node) -> tuple[int, int, int, int]:
    """The padding of a Conv or a pool: top, left, bottom, right."""
    top, left, bottom, right = layer.attributes.get_ints("pads", [0, 0, 0, 0])
    return top, left, bottom, right


def is_spatial_mean(node: ir.Node) -> bool:
    """Whether the node is a ReduceMean over height and width of (N, C, H, W) with C, H and W known."""
    if node.op_type != "ReduceMean" or len(node.inputs) < 2 or not is_constant(node.inputs[1]):
        return False
    maps, axes = node.inputs[0], constant(node.inputs[1])
    assert maps is not None
    return has_known_shape(maps) and len(sample_shape(maps)) == 3 and sorted((axes % 4).tolist()) == [2, 3]


class Writer:
    """Builds nodes that compute `value` in another way, and replaces its producer by them.

    Weights get the data type of `value`.
    """

    def __init__(self, graph: ir.Graph, value: ir.Value) -> None:
        self._graph, self._value, self._tape = graph, value, Tape(graph)

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int | Sequence[int] | ir.Attr) -> ir.Value:
        """Add a node; returns its output."""
        return self._tape.op(op_type, inputs, attributes)

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        """Add a Reshape; -1 stands for the dimension that is inferred."""
        return self.op("Reshape", value, self.integers(shape))

    def weights(self, array: Float64Array) -> ir.Value:
        """Add an initializer with the data type of the value that is replaced."""
        assert self._value.dtype is not None
        return self._initializer(array.astype(self._value.dtype.numpy()))

    def integers(self, numbers: Sequence[int] | NDArray[np.int64]) -> ir.Value:
        """Add an int64 initializer, such as a shape or axes."""
        return self._initializer(np.array(numbers, np.int64))

    def replace_with(self, new: ir.Value) -> None:
        """Insert the added nodes into the graph and replace the value by `new`, which takes over its name."""
        old = self._value
        producer = old.producer()
        assert producer is not None
        self._graph.insert_before(producer, self._tape.nodes)
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, new.name

    def _initializer(self, array: NDArray[np.generic]) -> ir.Value:
        names = (f"{self._value.name}.{number}" for number in count())  # an earlier pass may have used some names
        name = next(name for name in names if name not in self._graph.initializers)
        return self._tape.initializer(ir.tensor(np.ascontiguousarray(array)), name)
