"""Collapse: layers that are one affine map are computed as one.

Where that takes fewer multiplications, the map becomes one matrix product, or one convolution and what the map does
otherwise near the border, where padding between the layers cuts their kernels off.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from netkit.export.passes.ir import Doubles, Writer
from netkit.export.passes.linear_map import CHUNK, Part, measured, parts

LARGEST = 4_000_000  # numbers in A; 1.8 million took 1.5 s
NOUGHT = 1e-9  # of the largest number in A: what rounding in float64 leaves
WORTH = 0.8  # of the multiplications before, at most
LARGER = 3  # times the weights before, at most: a batch of one image waits for them to come from memory


@dataclass(frozen=True)
class Border:
    """What a map does beside its convolution, along one axis (2: rows, 3: columns).

    Rows come in groups, as those at the top and those at the bottom: from `ins` (groups, rows) to `outs` (groups, rows)
    leads `block` (groups, O, rows, w, C, rows, W), or for columns (groups, O, h, columns, C, H, columns).
    """

    axis: int
    ins: NDArray[np.int64]
    outs: NDArray[np.int64]
    block: Doubles


@dataclass(frozen=True)
class Convolution:
    """By `kernel` (O, C, kh, kw) with `pads` (top, left, bottom, right); and what is otherwise at the borders."""

    kernel: Doubles
    pads: tuple[int, int, int, int]
    borders: tuple[Border, ...]

    def multiplications(self, height: int, width: int) -> int:
        """For an output of that size."""
        return self.kernel.size * height * width + sum(border.block.size for border in self.borders)

    @property
    def weights(self) -> int:
        return self.kernel.size + sum(border.block.size for border in self.borders)


def as_convolution(matrix: Doubles) -> Convolution | None:
    """A map (O, h, w, C, H, W) as a convolution, but for its border; None where it is none."""
    _, h, w, channels, height, width = matrix.shape
    kernel = matrix[:, h // 2, w // 2]
    least = NOUGHT * np.abs(matrix).max()
    rows, columns = (np.flatnonzero((np.abs(kernel) > least).any(axis=axes)) for axes in ((0, 1, 3), (0, 1, 2)))
    if not len(rows):
        return None
    kernel = kernel[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = h // 2 - int(rows[0]), w // 2 - int(columns[0])
    bottom, right = h - height - top + kernel.shape[2] - 1, w - width - left + kernel.shape[3] - 1
    if min(top, left, bottom, right) < 0:
        return None
    units = torch.eye(channels * height * width, dtype=torch.float64).view(-1, channels, height, width)
    padded, weights = F.pad(units, (left, right, top, bottom)), torch.from_numpy(kernel.copy())
    even = torch.cat([F.conv2d(few, weights) for few in padded.split(CHUNK)])
    rest = matrix - even.flatten(1).T.reshape(matrix.shape).numpy()
    rest[np.abs(rest) <= least] = 0
    borders = tuple(border for axis in (2, 3) if (border := _border(rest, axis)))
    return None if rest.any() else Convolution(kernel, (top, left, bottom, right), borders)


def collapse(graph: ir.Graph) -> None:
    """Compute parts as one map each, where that is less work."""
    for part in parts(graph):
        ins, outs = part.ins, part.outs
        size = prod(ins) * prod(outs)
        if size > LARGEST:
            continue
        writer = Writer(graph, part.sink)
        matrix, constant = measured(part)
        found = None
        if size <= min(part.multiplications, part.weights):
            found = _product(writer, part, matrix, constant)
        elif len(ins) == len(outs) == 3 and (convolution := as_convolution(matrix)):
            less = convolution.multiplications(*outs[1:]) <= WORTH * part.multiplications
            if less and convolution.weights <= LARGER * part.weights:
                found = _convolution(writer, part, convolution, constant)
        if found:
            writer.end_with(found)


def _product(writer: Writer, part: Part, matrix: Doubles, constant: Doubles) -> ir.Value:
    flat = writer.op("Flatten", part.source)
    weights = writer.weights(matrix.reshape(constant.size, -1))
    product = writer.op("Gemm", flat, weights, writer.weights(constant.ravel()), transB=1)
    return product if constant.ndim == 1 else writer.shaped(product, -1, *constant.shape)


def _convolution(writer: Writer, part: Part, convolution: Convolution, constant: Doubles) -> ir.Value:
    h, w = constant.shape[1:]
    even = constant[:, h // 2, w // 2]
    kernel, bias = writer.weights(convolution.kernel), writer.weights(even)
    total = writer.op("Conv", part.source, kernel, bias, pads=convolution.pads)
    for border in convolution.borders:
        total = writer.op("Add", total, _bordered(writer, part, border))
    rest = constant - even[:, None, None]
    if np.abs(rest).max() > NOUGHT * np.abs(constant).max():
        total = writer.op("Add", total, writer.weights(rest[None]))
    return total


def _bordered(writer: Writer, part: Part, border: Border) -> ir.Value:
    """What `border` adds: rows are taken out, multiplied group by group, and put to their places by another product.

    Columns, too, are taken out by a product: inception ran 1.03 times as fast as with a Gather, in int8 1.04 times.
    """
    (groups, *outs), (channels, height, width), axis = border.block.shape, part.outs, border.axis
    if axis == 2:
        rows = writer.op("Gather", part.source, writer.integers(border.ins), axis=axis)
    else:
        chosen = writer.weights(np.eye(part.ins[2])[:, border.ins.ravel()])
        rows = writer.shaped(writer.op("MatMul", part.source, chosen), -1, *part.ins[:2], *border.ins.shape)
    matrices = border.block.reshape(groups, prod(outs[:3]), -1).transpose(0, 2, 1)
    first = [axis, *(other for other in range(5) if other != axis)]
    rows = writer.shaped(writer.op("Transpose", rows, perm=first), groups, -1, matrices.shape[1])
    product = writer.shaped(writer.op("MatMul", rows, writer.weights(matrices)), groups, -1, *outs[:3])
    last = [1, 2, 0, 3, 4] if axis == 2 else [1, 2, 3, 0, 4]
    places = np.arange(height * width).reshape(height, width).take(border.outs.ravel(), axis=axis - 2).ravel()
    ring = writer.shaped(writer.op("Transpose", product, perm=last), -1, channels, len(places))
    placed = writer.op("MatMul", ring, writer.weights(np.eye(height * width)[places]))
    return writer.shaped(placed, -1, channels, height, width)


def _border(rest: Doubles, axis: int) -> Border | None:
    """Takes out of `rest` (O, h, w, C, H, W) what leads from some rows (or columns) to some."""
    swapped = (0, 1, 2, 3, 4, 5) if axis == 2 else (0, 2, 1, 3, 5, 4)
    view = rest.transpose(swapped)  # columns as rows
    leads = np.any(view[:, :, view.shape[2] // 2] != 0, axis=(0, 2, 4))  # (h, H), by the middle column
    groups = _groups(leads)
    if not groups:
        return None
    ins, outs = (np.array([group[side] for group in groups]) for side in (1, 0))
    blocks = [view[:, out][:, :, :, :, into].transpose(swapped) for out, into in groups]
    for out, into in groups:
        for row in out:
            view[:, row][:, :, :, into] = 0
    return Border(axis, ins, outs, np.stack(blocks))


def _groups(leads: NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Rows of the output and of the input that lead to one another, in groups of equal sizes, or all in one."""
    groups: list[tuple[set[int], set[int]]] = []
    for out in np.flatnonzero(leads.any(axis=1)).tolist():
        outs, ins = {out}, set(np.flatnonzero(leads[out]).tolist())
        for other in [group for group in groups if group[1] & ins]:
            groups.remove(other)
            outs, ins = outs | other[0], ins | other[1]
        groups.append((outs, ins))
    if len({(len(outs), len(ins)) for outs, ins in groups}) > 1:
        groups = [(set().union(*(outs for outs, _ in groups)), set().union(*(ins for _, ins in groups)))]
    return [(sorted(outs), sorted(ins)) for outs, ins in groups]
