"""Linear map: layers without an activation between them compute one affine map, y = A x + b.

`measure` runs the layers in float64: on 0, which gives b, and on each unit vector e_i, which gives A e_i + b.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.export.passes.ir import Float64Array, constant, has_known_shape, is_2d, is_constant, pads, sample_shape

UNIT_VECTORS_PER_BATCH = 50  # float64 convolutions over 1,440 at a time took 4 times as long
WEIGHTED_OPS = ("AveragePool", "Conv", "Gemm")  # the other OPERATORS only move values


@dataclass(frozen=True)
class AffineBlock:
    """Layers, in graph order, that compute `sink` from `source` alone."""

    source: ir.Value
    sink: ir.Value
    layers: tuple[ir.Node, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input, without the batch."""
        return sample_shape(self.source)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output, without the batch."""
        return sample_shape(self.sink)

    @property
    def multiplications(self) -> int:
        """Number of multiplications for one sample."""
        return sum(_multiplications(layer) for layer in self.layers)

    @property
    def weights(self) -> int:
        """Number of weights in all layers."""
        return sum(constant(value).size for layer in self.layers for value in layer.inputs if is_constant(value))


def affine_blocks(graph: ir.Graph) -> Iterator[AffineBlock]:
    """Yield the blocks with at least two weighted layers, from the last to the first."""
    for node in reversed(graph):
        if _is_affine(node) and not _feeds_only_affine(node.outputs[0]):
            block = _block_before(graph, node.outputs[0])
            if block:
                yield block


def measure(block: AffineBlock) -> tuple[Float64Array, Float64Array]:
    """Return A (*output_shape, *input_shape) and b (*output_shape)."""
    input_shape, output_shape = block.input_shape, block.output_shape
    offset = _run(block, torch.zeros(1, *input_shape, dtype=torch.float64))
    columns = torch.cat([_run(block, units) for units in unit_vectors(*input_shape)]) - offset
    return columns.flatten(1).T.reshape(*output_shape, *input_shape).numpy(), offset[0].numpy()


def unit_vectors(*shape: int) -> Iterator[Tensor]:
    """Yield all unit vectors of `shape` in order, in float64 batches (N, *shape); one batch of all would be huge."""
    size = prod(shape)
    for start in range(0, size, UNIT_VECTORS_PER_BATCH):
        units = torch.zeros(min(UNIT_VECTORS_PER_BATCH, size - start), size, dtype=torch.float64)
        units.diagonal(start).fill_(1)
        yield units.view(-1, *shape)


def _feeds_only_affine(value: ir.Value) -> bool:
    return not value.is_graph_output() and all(map(_is_affine, value.consumers()))


def _block_before(graph: ir.Graph, sink: ir.Value) -> AffineBlock | None:
    """The affine layers that compute `sink`; None if there are several sources, other consumers, or too few layers."""
    layers: set[ir.Node] = set()
    sources: set[ir.Value] = set()
    pending = [sink]
    while pending:
        value = pending.pop()
        producer = value.producer()
        if producer is None or not _is_affine(producer):
            sources.add(value)
        elif producer not in layers:
            layers.add(producer)
            pending += (value for value in producer.inputs if value and not is_constant(value))
    inner = {layer.outputs[0] for layer in layers} - {sink}
    closed = all(layers.issuperset(value.consumers()) and not value.is_graph_output() for value in inner)
    weighted = [layer for layer in layers if layer.op_type in WEIGHTED_OPS]
    if len(sources) != 1 or len(weighted) < 2 or not closed:
        return None
    return AffineBlock(sources.pop(), sink, tuple(node for node in graph if node in layers))


def _run(block: AffineBlock, inputs: Tensor) -> Tensor:
    """Compute `sink` in float64 from `inputs` (N, ...), the values of `source`."""
    values = {block.source: inputs}
    for layer in block.layers:
        arguments = [values[value] if value in values else _tensor(value) for value in layer.inputs if value]
        values[layer.outputs[0]] = OPERATORS[layer.op_type](layer, *arguments)
    return values[block.sink]


def _conv(layer: ir.Node, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations = (layer.attributes.get_ints(name, [1, 1]) for name in ("strides", "dilations"))
    groups = layer.attributes.get_int("group", 1)
    return F.conv2d(_padded(layer, x), kernel, bias, tuple(strides), 0, tuple(dilations), groups)


def _average_pool(layer: ir.Node, x: Tensor) -> Tensor:
    kernel, strides = layer.attributes["kernel_shape"].as_ints(), layer.attributes.get_ints("strides", [1, 1])
    return F.avg_pool2d(_padded(layer, x), tuple(kernel), tuple(strides))


def _gemm(layer: ir.Node, x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    alpha, beta = (layer.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    product = alpha * x @ (weights.T if layer.attributes.get_int("transB", 0) else weights)
    return product if bias is None else product + beta * bias


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "AveragePool": _average_pool,
    "Concat": lambda _, *inputs: torch.cat(inputs, dim=1),
    "Conv": _conv,
    "Flatten": lambda _, x: x.flatten(1),
    "Gemm": _gemm,
    "Reshape": lambda _, x, shape: x.flatten(1),
}


def _is_affine(node: ir.Node) -> bool:
    """Whether the node is affine, has known shapes, and has attributes that OPERATORS supports."""
    if node.op_type not in OPERATORS or node.domain or not all(map(has_known_shape, (*node.inputs, *node.outputs))):
        return False
    attributes = node.attributes
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or attributes.get_int("ceil_mode"):
        return False
    if node.op_type in ("AveragePool", "Conv") and not is_2d(node):
        return False
    if node.op_type == "AveragePool":
        return not any(pads(node)) or bool(attributes.get_int("count_include_pad"))
    if node.op_type == "Concat":
        return attributes["axis"].as_int() == 1 and not any(map(is_constant, node.inputs))
    if node.op_type in ("Flatten", "Reshape"):
        source, row = node.inputs[0], sample_shape(node.outputs[0])
        one_row_per_sample = source is not None and len(row) == 1 and row[0] == prod(sample_shape(source))
        return one_row_per_sample and attributes.get_int("axis", 1) == 1
    return all(map(is_constant, node.inputs[1:])) and not attributes.get_int("transA")


def _tensor(value: ir.Value | None) -> Tensor:
    return torch.from_numpy(constant(value))


def _padded(layer: ir.Node, x: Tensor) -> Tensor:
    top, left, bottom, right = pads(layer)
    return F.pad(x, (left, right, top, bottom))


def _multiplications(layer: ir.Node) -> int:
    if layer.op_type not in ("Conv", "Gemm"):
        return 0
    positions = sample_shape(layer.outputs[0])[1:]  # () after a Gemm
    return constant(layer.inputs[1]).size * prod(positions)
