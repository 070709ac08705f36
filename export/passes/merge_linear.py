"""Merge linear layers: layers without an activation between them become one, if that takes less work.

    A2 (A1 x + b1) + b2 = (A2 A1) x + (A2 b1 + b2) = A x + b

and the same for any number of layers, and for branches that are concatenated. The map x -> A x + b is written as

    gemm(flatten(x), A, b)                           where A itself is small
    conv(x, K, b) + borders(x) + border of b         where A is a convolution in the interior

Padding between the layers truncates their kernels near the border. There A differs from the convolution with the
interior kernel K in a few rows and columns, and small matrix products correct them.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from netkit.export.passes.ir import Float64Array, Writer
from netkit.export.passes.linear_map import AffineBlock, affine_blocks, measure, unit_vectors

MAX_MATRIX_SIZE = 4_000_000  # elements of A; a matrix of 1.8 million took 1.5 s to measure
MAX_INPUTS = 4096  # the layers run once for each input: for 224x224x3 inputs, they would run for minutes
ROUNDING = 1e-9  # relative to the largest element of A; smaller elements are rounding errors of float64
MAX_WORK_RATIO = 0.8  # multiplications after / before
MAX_WEIGHTS_RATIO = 3  # weights after / before; at batch size 1, loading the weights dominates the time


@dataclass(frozen=True)
class Border:
    """The part of a map near the border that its convolution lacks, along one axis (2: rows, 3: columns).

    Rows form groups of equal size, such as the rows at the top and the rows at the bottom. In each group, `block` maps
    the input rows `inputs` (groups, rows) to the output rows `outputs` (groups, rows). Its shape is
    (groups, O, rows, w, C, rows, W) for rows and (groups, O, h, columns, C, H, columns) for columns.
    """

    axis: int
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    block: Float64Array


@dataclass(frozen=True)
class Convolution:
    """A stride-1 convolution with `kernel` (O, C, kh, kw) and `pads` (top, left, bottom, right), plus `borders`."""

    kernel: Float64Array
    pads: tuple[int, int, int, int]
    borders: tuple[Border, ...]

    def multiplications(self, height: int, width: int) -> int:
        """Number of multiplications for one sample with an output of `height` x `width`."""
        return self.kernel.size * height * width + sum(border.block.size for border in self.borders)

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        return self.kernel.size + sum(border.block.size for border in self.borders)


def merge_linear(graph: ir.Graph) -> None:
    """Replace each affine block by one layer, if that takes fewer multiplications and not many more weights."""
    for block in affine_blocks(graph):
        input_shape, output_shape = block.input_shape, block.output_shape
        matrix_size = prod(input_shape) * prod(output_shape)
        if matrix_size > MAX_MATRIX_SIZE or prod(input_shape) > MAX_INPUTS:
            continue
        writer = Writer(graph, block.sink)
        matrix, offset = measure(block)
        if matrix_size <= min(block.multiplications, block.weights):
            writer.replace_with(_write_product(writer, block, matrix, offset))
        elif len(input_shape) == len(output_shape) == 3 and (convolution := as_convolution(matrix)):
            less_work = convolution.multiplications(*output_shape[1:]) <= MAX_WORK_RATIO * block.multiplications
            if less_work and convolution.weights <= MAX_WEIGHTS_RATIO * block.weights:
                writer.replace_with(_write_convolution(writer, block, convolution, offset))


def as_convolution(matrix: Float64Array) -> Convolution | None:
    """Express a map (O, h, w, C, H, W) as a convolution with borders; None if that does not cover all elements.

    The kernel is the part of the map that computes the output pixel in the middle.
    """
    _, h, w, channels, height, width = matrix.shape
    kernel = matrix[:, h // 2, w // 2]
    rounding = ROUNDING * np.abs(matrix).max()
    rows, columns = (np.flatnonzero((np.abs(kernel) > rounding).any(axis=axes)) for axes in ((0, 1, 3), (0, 1, 2)))
    if not len(rows):
        return None
    kernel = kernel[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = h // 2 - int(rows[0]), w // 2 - int(columns[0])
    bottom, right = h - height - top + kernel.shape[2] - 1, w - width - left + kernel.shape[3] - 1
    if min(top, left, bottom, right) < 0:
        return None
    weights, sides = torch.from_numpy(kernel.copy()), (left, right, top, bottom)
    interior = torch.cat([F.conv2d(F.pad(units, sides), weights) for units in unit_vectors(channels, height, width)])
    rest = matrix - interior.flatten(1).T.reshape(matrix.shape).numpy()
    rest[np.abs(rest) <= rounding] = 0
    borders = tuple(border for axis in (2, 3) if (border := _take_border(rest, axis)))
    return None if rest.any() else Convolution(kernel, (top, left, bottom, right), borders)


def _take_border(rest: Float64Array, axis: int) -> Border | None:
    """Move the elements of `rest` (O, h, w, C, H, W) that connect the same few rows (or columns) into a Border."""
    order = (0, 1, 2, 3, 4, 5) if axis == 2 else (0, 2, 1, 3, 5, 4)
    view = rest.transpose(order)  # columns become rows
    connected = np.any(view[:, :, view.shape[2] // 2] != 0, axis=(0, 2, 4))  # (h, H), judged by the middle column
    groups = _connected_rows(connected)
    if not groups:
        return None
    outputs, inputs = (np.array([group[side] for group in groups]) for side in (0, 1))
    blocks = [view[:, out_rows][:, :, :, :, in_rows].transpose(order) for out_rows, in_rows in groups]
    for out_rows, in_rows in groups:
        for row in out_rows:
            view[:, row][:, :, :, in_rows] = 0
    return Border(axis, inputs, outputs, np.stack(blocks))


def _connected_rows(connected: NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Groups of output rows with the input rows that they read; a single group if the sizes differ."""
    groups: list[tuple[set[int], set[int]]] = []
    for row in np.flatnonzero(connected.any(axis=1)).tolist():
        outputs, inputs = {row}, set(np.flatnonzero(connected[row]).tolist())
        for other in [group for group in groups if group[1] & inputs]:
            groups.remove(other)
            outputs, inputs = outputs | other[0], inputs | other[1]
        groups.append((outputs, inputs))
    if len({(len(outputs), len(inputs)) for outputs, inputs in groups}) > 1:
        groups = [(set().union(*(outputs for outputs, _ in groups)), set().union(*(inputs for _, inputs in groups)))]
    return [(sorted(outputs), sorted(inputs)) for outputs, inputs in groups]


def _write_product(writer: Writer, block: AffineBlock, matrix: Float64Array, offset: Float64Array) -> ir.Value:
    flat = writer.op("Flatten", block.source)
    weights = writer.weights(matrix.reshape(offset.size, -1))
    product = writer.op("Gemm", flat, weights, writer.weights(offset.ravel()), transB=1)
    return product if offset.ndim == 1 else writer.reshape(product, -1, *offset.shape)


def _write_convolution(writer: Writer, block: AffineBlock, convolution: Convolution, offset: Float64Array) -> ir.Value:
    h, w = offset.shape[1:]
    bias = offset[:, h // 2, w // 2]
    weights = writer.weights(convolution.kernel), writer.weights(bias)
    total = writer.op("Conv", block.source, *weights, pads=convolution.pads)
    for border in convolution.borders:
        total = writer.op("Add", total, _write_border(writer, block, border))
    rest = offset - bias[:, None, None]
    if np.abs(rest).max() > ROUNDING * np.abs(offset).max():
        total = writer.op("Add", total, writer.weights(rest[None]))
    return total


def _write_border(writer: Writer, block: AffineBlock, border: Border) -> ir.Value:
    """Write the nodes for `border`: gather its input rows, multiply each group, and scatter the result by a MatMul.

    Columns are gathered by a MatMul as well: inception ran 1.03 times as fast as with a Gather, in int8 1.04 times.
    """
    (groups, *outputs), (channels, height, width), axis = border.block.shape, block.output_shape, border.axis
    if axis == 2:
        rows = writer.op("Gather", block.source, writer.integers(border.inputs), axis=axis)
    else:
        selection = writer.weights(np.eye(block.input_shape[2])[:, border.inputs.ravel()])
        selected = writer.op("MatMul", block.source, selection)
        rows = writer.reshape(selected, -1, *block.input_shape[:2], *border.inputs.shape)
    matrices = border.block.reshape(groups, prod(outputs[:3]), -1).transpose(0, 2, 1)
    groups_first = [axis, *(other for other in range(5) if other != axis)]
    rows = writer.reshape(writer.op("Transpose", rows, perm=groups_first), groups, -1, matrices.shape[1])
    product = writer.reshape(writer.op("MatMul", rows, writer.weights(matrices)), groups, -1, *outputs[:3])
    groups_inside = [1, 2, 0, 3, 4] if axis == 2 else [1, 2, 3, 0, 4]
    pixels = np.arange(height * width).reshape(height, width).take(border.outputs.ravel(), axis=axis - 2).ravel()
    values = writer.reshape(writer.op("Transpose", product, perm=groups_inside), -1, channels, len(pixels))
    scattered = writer.op("MatMul", values, writer.weights(np.eye(height * width)[pixels]))
    return writer.reshape(scattered, -1, channels, height, width)
