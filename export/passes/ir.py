"""Graph: what the passes ask of an ONNX graph, and how they write into it, by onnx-ir."""

from collections.abc import Sequence
from itertools import count

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

Doubles = NDArray[np.float64]


def is_constant(value: ir.Value | None) -> bool:
    """Whether it is a weight, or another value that is the same for all inputs."""
    return value is not None and value.const_value is not None


def numbers(value: ir.Value | None) -> Doubles:
    """Those of a constant."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def is_sized(value: ir.Value | None) -> bool:
    """Whether all its sizes but the batch's are known."""
    if value is None or is_constant(value):
        return True
    return value.shape is not None and all(isinstance(size, int) for size in value.shape.dims[1:])


def sizes(value: ir.Value) -> tuple[int, ...]:
    """Those that are known, without the batch's."""
    assert value.shape is not None
    return tuple(size for size in value.shape.dims[1:] if isinstance(size, int))


def maker(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that makes the value, if it is an operator of that kind and makes it for one node alone."""
    node = value.producer() if value else None
    if node is None or node.op_type != kind or node.domain:
        return None
    only = len(node.outputs[0].uses()) == 1 and not node.outputs[0].is_graph_output()
    return node if only else None


def is_of_maps(layer: ir.Node) -> bool:
    """Whether a convolution or a pool is one over height and width, and its weights, if it has some, are constant."""
    if layer.op_type == "Conv":
        kernel = layer.inputs[1]
        return kernel is not None and kernel.const_value is not None and kernel.const_value.shape.rank() == 4
    return len(layer.attributes["kernel_shape"].as_ints()) == 2


def is_plain(conv: ir.Node) -> bool:
    """Whether a convolution, over height and width, has constant weights, one group, no dilation, explicit padding."""
    attributes = conv.attributes
    explicit = attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    even = attributes.get_int("group", 1) == 1 and set(attributes.get_ints("dilations", [1, 1])) == {1}
    return is_of_maps(conv) and explicit and even and all(map(is_constant, conv.inputs[1:]))


def pads(layer: ir.Node) -> tuple[int, int, int, int]:
    """Of a convolution or a pool: top, left, bottom, right."""
    top, left, bottom, right = layer.attributes.get_ints("pads", [0, 0, 0, 0])
    return top, left, bottom, right


class Writer:
    """Writes other nodes in place of the one that makes `value`; their weights are of its type."""

    def __init__(self, graph: ir.Graph, value: ir.Value) -> None:
        self._graph, self._value, self._tape = graph, value, Tape(graph)

    def op(self, kind: str, *inputs: ir.Value, **attributes: int | Sequence[int] | ir.Attr) -> ir.Value:
        """What an operator of ONNX makes of the inputs."""
        return self._tape.op(kind, inputs, attributes)

    def shaped(self, value: ir.Value, *shape: int) -> ir.Value:
        """The same numbers in another shape; -1 is what is left."""
        return self.op("Reshape", value, self.integers(shape))

    def weights(self, found: Doubles) -> ir.Value:
        assert self._value.dtype is not None
        return self._initializer(found.astype(self._value.dtype.numpy()))

    def integers(self, found: Sequence[int] | NDArray[np.int64]) -> ir.Value:
        return self._initializer(np.array(found, np.int64))

    def end_with(self, new: ir.Value) -> None:
        """Let `new` take the value's place, and name."""
        old = self._value
        producer = old.producer()
        assert producer is not None
        self._graph.insert_before(producer, self._tape.nodes)
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, new.name

    def _initializer(self, found: NDArray[np.generic]) -> ir.Value:
        names = (f"{self._value.name}.{number}" for number in count())  # another pass may have taken the first ones
        name = next(name for name in names if name not in self._graph.initializers)
        return self._tape.initializer(ir.tensor(np.ascontiguousarray(found)), name)
