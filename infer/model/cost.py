"""The cost of one node of an ONNX graph: upper bounds of its multiply-adds and of the memory that it needs inside."""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from netkit.infer.model.tensors import Step, attribute

GRID_SAMPLES = 16  # pixels that cubic interpolation reads for one
SMALL_RANK = 5  # of images for Conv; with at most three axes of pixels, ONNX Runtime needs no large workspace


class Cost(NamedTuple):
    """Multiply-adds, or the elements written if that is more, and the elements of the workspace."""

    multiply_adds: int
    workspace: int = 0


def cost(step: Step) -> Cost:
    """Return the cost of a node. For most operators it is the number of output elements."""
    return RULES.get(step.node.op_type, _elementwise)(step)


def written(step: Step) -> int:
    """Return the number of output elements, or input elements if they are more, as for a sum."""
    return max((tensor.elements for tensor in (*step.inputs, *step.outputs) if tensor), default=0)


def _shape(step: Step, index: int) -> tuple[int, ...]:
    """Return the shape of an input; one that is left out is empty."""
    tensor = step.inputs[index] if index < len(step.inputs) else None
    return tensor.shape if tensor else (0,)


def _output(step: Step) -> int:
    return max((tensor.elements for tensor in step.outputs if tensor), default=0)


def _elementwise(step: Step) -> Cost:
    return Cost(written(step))


def _convolution(step: Step, *, weights: int = 1) -> Cost:
    kernel = math.prod(_shape(step, weights)[1:])
    output = next(tensor.shape for tensor in step.outputs if tensor)
    direct = step.node.op_type == "Conv" and len(output) <= SMALL_RANK
    return Cost(_output(step) * kernel, 0 if direct else kernel * math.prod(output[2:]))


def _transposed(step: Step) -> Cost:
    images, kernel = _shape(step, 0), math.prod(_shape(step, 1)[1:])
    return Cost(math.prod(images) * kernel, kernel * math.prod(images[2:]))


def _product(step: Step) -> Cost:
    return Cost(_output(step) * _shape(step, 0)[-1])


def _gemm(step: Step) -> Cost:
    return Cost(_output(step) * _shape(step, 0)[0 if attribute(step.node, "transA", 0) else -1])


def _einsum(step: Step) -> Cost:
    """All combinations of indices. A product of more than two tensors may need as many elements of workspace."""
    equation = attribute(step.node, "equation", b"").decode()
    terms = [re.findall(r"\.\.\.|\w", term) for term in equation.partition("->")[0].split(",")]
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = _shape(step, index)
        broadcast = len(shape) - len(term) + 1  # axes that "..." stands for
        axes = [name for letter in term for name in ([letter] if letter != "..." else map(str, range(broadcast)))]
        for letter, size in zip(reversed(axes), reversed(shape), strict=False):
            sizes[letter] = max(size, sizes.get(letter, 1))
    combinations = math.prod(sizes.values())
    return Cost(max(combinations * len(terms), written(step)), combinations if len(terms) > 2 else 0)


def _pool(step: Step) -> Cost:
    return Cost(_output(step) * math.prod(attribute(step.node, "kernel_shape", [1])))


def _recurrent(step: Step) -> Cost:
    places = math.prod(_shape(step, 0)[:2])  # steps x images
    weights, recurrent = _shape(step, 1), _shape(step, 2)
    return Cost(places * (math.prod(weights) + math.prod(recurrent)), places * math.prod(weights[:2]))


def _attention(step: Step) -> Cost:
    queries = _shape(step, 0)
    past = _shape(step, 4)[-2] if len(_shape(step, 4)) > 1 else 0
    keys = _shape(step, 1)[-2] + past
    heads = queries[1] if len(queries) == 4 else attribute(step.node, "q_num_heads", 1)
    return Cost(2 * math.prod(queries) * keys, queries[0] * heads * queries[-2] * keys)


def _local_norm(step: Step) -> Cost:
    shape, size = _shape(step, 0), attribute(step.node, "size", 1)
    return Cost(written(step) * size, written(step) + size * math.prod(shape[2:]))


def _quadratic(step: Step) -> Cost:
    """Return the cost of an operator that may need as many steps for an element as its longest axis has."""
    longest = max((length for tensor in (*step.inputs, *step.outputs) if tensor for length in tensor.shape), default=1)
    return Cost(written(step) * longest, 2 * written(step))


def _fourier(step: Step) -> Cost:
    """Return the cost of a transform along one axis: for each element, one multiply-add per element of the axis."""
    axis = step.inputs[2].constant if len(step.inputs) > 2 and step.inputs[2] else attribute(step.node, "axis")
    if axis is None or np.size(axis) != 1:
        return _quadratic(step)
    lengths = [tensor.shape[np.asarray(axis).item()] for tensor in (step.inputs[0], step.outputs[0]) if tensor]
    return Cost(written(step) * max(lengths), 2 * written(step))


def _interpolate(step: Step) -> Cost:
    return Cost(written(step) * GRID_SAMPLES)


RULES: Mapping[str, Callable[[Step], Cost]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed,
    "DFT": _fourier,
    "DeformConv": _convolution,
    "Det": _quadratic,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "GridSample": _interpolate,
    "LRN": _local_norm,
    "LSTM": _recurrent,
    "LpPool": _pool,
    "MatMul": _product,
    "MatMulInteger": _product,
    "MaxPool": _pool,
    "QLinearConv": lambda step: _convolution(step, weights=3),
    "QLinearMatMul": _product,
    "RNN": _recurrent,
    "Resize": _interpolate,
    "STFT": _quadratic,
}
