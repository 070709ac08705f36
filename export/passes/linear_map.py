"""Affine: layers with no activation between them are one affine map, y = A x + b, however many they are.

The map is found by running the layers in float64 on every unit vector.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.export.passes.ir import Doubles, is_constant, is_of_maps, is_sized, numbers, pads, sizes

CHUNK = 50  # unit vectors; float64 convolutions over 1,440 at a time took 4 times as long
COMPUTING = ("AveragePool", "Conv", "Gemm")


@dataclass(frozen=True)
class Part:
    """Layers, in order, that make `sink` of `source` and nothing else."""

    source: ir.Value
    sink: ir.Value
    layers: tuple[ir.Node, ...]

    @property
    def ins(self) -> tuple[int, ...]:
        """The sizes of its input but the batch's."""
        return sizes(self.source)

    @property
    def outs(self) -> tuple[int, ...]:
        """The sizes of its output but the batch's."""
        return sizes(self.sink)

    @property
    def multiplications(self) -> int:
        """For one image."""
        return sum(_multiplications(layer) for layer in self.layers)

    @property
    def weights(self) -> int:
        """How many numbers its layers hold."""
        return sum(numbers(value).size for layer in self.layers for value in layer.inputs if is_constant(value))


def parts(graph: ir.Graph) -> Iterator[Part]:
    """All of two layers or more that compute something, from the last to the first."""
    for node in reversed(graph):
        if _is_affine(node) and not _goes_on(node.outputs[0]):
            part = _part(graph, node.outputs[0])
            if part:
                yield part


def measured(part: Part) -> tuple[Doubles, Doubles]:
    """A (*output, *input) and b (*output), without the batch."""
    ins, outs = part.ins, part.outs
    units = torch.eye(prod(ins), dtype=torch.float64).view(-1, *ins)
    nought = _run(part, torch.zeros(1, *ins, dtype=torch.float64))
    columns = torch.cat([_run(part, few) for few in units.split(CHUNK)]) - nought
    return columns.flatten(1).T.reshape(*outs, *ins).numpy(), nought[0].numpy()


def _goes_on(value: ir.Value) -> bool:
    """Whether all that is made of it is made by affine layers."""
    return not value.is_graph_output() and all(map(_is_affine, value.consumers()))


def _part(graph: ir.Graph, sink: ir.Value) -> Part | None:
    """What lies between `sink` and the one value that it comes from; None where there are several."""
    layers: set[ir.Node] = set()
    sources: set[ir.Value] = set()
    left = [sink]
    while left:
        value = left.pop()
        producer = value.producer()
        if producer is None or not _is_affine(producer):
            sources.add(value)
        elif producer not in layers:
            layers.add(producer)
            left += (value for value in producer.inputs if value and not is_constant(value))
    inner = {layer.outputs[0] for layer in layers} - {sink}
    closed = all(layers.issuperset(value.consumers()) and not value.is_graph_output() for value in inner)
    computing = [layer for layer in layers if layer.op_type in COMPUTING]
    if len(sources) != 1 or len(computing) < 2 or not closed:
        return None
    return Part(sources.pop(), sink, tuple(node for node in graph if node in layers))


def _run(part: Part, images: Tensor) -> Tensor:
    """The sink's value, of values (N, ...) of the source, in float64."""
    values = {part.source: images}
    for layer in part.layers:
        inputs = [values[value] if value in values else _constant(value) for value in layer.inputs if value]
        values[layer.outputs[0]] = LAYERS[layer.op_type](layer, *inputs)
    return values[part.sink]


def _conv(layer: ir.Node, images: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations = (layer.attributes.get_ints(name, [1, 1]) for name in ("strides", "dilations"))
    group = layer.attributes.get_int("group", 1)
    return F.conv2d(_padded(layer, images), kernel, bias, tuple(strides), 0, tuple(dilations), group)


def _pool(layer: ir.Node, images: Tensor) -> Tensor:
    kernel, strides = layer.attributes["kernel_shape"].as_ints(), layer.attributes.get_ints("strides", [1, 1])
    return F.avg_pool2d(_padded(layer, images), tuple(kernel), tuple(strides))


def _gemm(layer: ir.Node, rows: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    alpha, beta = (layer.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    product = alpha * rows @ (weights.T if layer.attributes.get_int("transB", 0) else weights)
    return product if bias is None else product + beta * bias


LAYERS: dict[str, Callable[..., Tensor]] = {
    "AveragePool": _pool,
    "Concat": lambda _, *inputs: torch.cat(inputs, dim=1),
    "Conv": _conv,
    "Flatten": lambda _, inputs: inputs.flatten(1),
    "Gemm": _gemm,
    "Reshape": lambda _, inputs, shape: inputs.flatten(1),
}


def _is_affine(node: ir.Node) -> bool:
    """Whether it is, for sizes that are known, and of a kind that can be run here."""
    if node.op_type not in LAYERS or node.domain or not all(map(is_sized, (*node.inputs, *node.outputs))):
        return False
    attributes = node.attributes
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or attributes.get_int("ceil_mode"):
        return False
    if node.op_type in ("AveragePool", "Conv") and not is_of_maps(node):
        return False
    if node.op_type == "AveragePool":
        return not any(pads(node)) or bool(attributes.get_int("count_include_pad"))
    if node.op_type == "Concat":
        return attributes["axis"].as_int() == 1 and not any(map(is_constant, node.inputs))
    if node.op_type in ("Flatten", "Reshape"):
        source, row = node.inputs[0], sizes(node.outputs[0])
        whole = source is not None and len(row) == 1 and row[0] == prod(sizes(source))  # else images are mixed
        return whole and attributes.get_int("axis", 1) == 1
    return all(map(is_constant, node.inputs[1:])) and not attributes.get_int("transA")


def _constant(value: ir.Value | None) -> Tensor:
    return torch.from_numpy(numbers(value))


def _padded(layer: ir.Node, images: Tensor) -> Tensor:
    top, left, bottom, right = pads(layer)
    return F.pad(images, (left, right, top, bottom))


def _multiplications(layer: ir.Node) -> int:
    if layer.op_type not in ("Conv", "Gemm"):
        return 0
    places = sizes(layer.outputs[0])[1:]  # none after a Gemm
    return numbers(layer.inputs[1]).size * prod(places)
