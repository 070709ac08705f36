"""Float16 and int8 variants of a model, for speed and size.

Their outputs differ from the network's by more than rounding, so the exporter checks their accuracy. An int8 model must
also be faster or smaller than the float32 model.
"""

import tempfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from netkit.core.errors import ModelError, ParityError
from netkit.core.model_card import ModelCard
from netkit.export.convert import OPSET, convert, serialize, translate
from netkit.export.passes import ANY_PRECISION, FLOAT32, apply_passes
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import INPUT, Model
from netkit.infer.runtime.bench import interleaved_speeds
from netkit.infer.runtime.session import open_session

MAX_CALIBRATION_IMAGES = 1000  # the first training images; their activations set the int8 ranges
CALIBRATION_BATCH_SIZE = 100
MAX_CALIBRATION_BATCH_BYTES = 2**21  # of images
MATRIX_OPS = ("Gemm", "MatMul")  # only with a constant matrix; attention is faster and more accurate in float32
INT8_OPS = ("Conv", "Relu", "Add", *MATRIX_OPS)  # with pools and concatenations as well, densenet was 6 % slower
MIN_INT8_CHANNELS = 8  # input channels; a Conv with 1 took 12.5 us in int8 and 2.3 us in float32
MIN_INT8_WEIGHTS = 4096  # of a matrix; see the table in docs/speed.md, by scripts/bench/int8.py
MIN_SPEEDUP, MAX_SIZE_RATIO = 1.1, 0.9  # relative to float32; an int8 model must meet one of these limits
MIN_SPEED_RATIO = 0.9  # of a smaller model; two measurements of one model differ by a few percent


def to_fp16(net: nn.Module, card: ModelCard, *, opset: int) -> bytes:
    """Return the bytes of an ONNX model that computes in float16, for GPUs; logits and probabilities are float32."""
    try:
        return convert(net, card, opset=opset, dtype=torch.float16, passes=ANY_PRECISION)
    except ModelError as exc:
        convert(net, card, opset=opset, passes={})  # if float32 fails, too, float16 is not the cause
        hint = "for float16, store constants with register_buffer, not as attributes, and do not cast"
        raise ModelError(f"{exc}; {hint}") from None


def int8_candidates(
    net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8], *, opset: int, file: str
) -> Iterator[Model]:
    """Yield the model of `to_int8` and then, if it has int8 matrices, the model with int8 convolutions only.

    Skips the second model if it is neither faster nor smaller than float32; raises ParityError if the first is not.
    `file` is for messages.
    """
    exported = translate(net, card, opset=opset)
    float32 = onnx_file.check(serialize(apply_passes(exported, FLOAT32), card), file)
    first = onnx_file.check(quantize(exported, card, images_u8), file)
    if reason := no_gain(first, float32):
        raise ParityError(f"int8 does not pay: {reason}")
    yield first
    second = onnx_file.check(quantize(exported, card, images_u8, matrices=False), file)
    if second.content != first.content and not no_gain(second, float32):
        yield second


def no_gain(int8: Model, float32: Model) -> str | None:
    """Return why int8 has no gain, with its size and its speed on one core of this CPU; None if it has one."""
    if not any(node.op_type == "QuantizeLinear" for node in onnx.load_model_from_string(int8.content).graph.node):
        return (
            f"int8 needs a convolution with at least {MIN_INT8_CHANNELS} input channels or a matrix with at least "
            f"{MIN_INT8_WEIGHTS:,} weights"
        )
    size = len(int8.content) / len(float32.content)
    speeds = interleaved_speeds([open_session(model, device="cpu", threads=1) for model in (int8, float32)])
    speedup = speeds[0] / speeds[1]
    if speedup >= MIN_SPEEDUP or (size <= MAX_SIZE_RATIO and speedup >= MIN_SPEED_RATIO):
        return None
    return f"its file is {size:.2f} times the size and runs at {speedup:.2f} times the speed of float32 on this CPU"


def to_int8(net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8], *, opset: int = OPSET) -> bytes:
    """Return the bytes of an ONNX model with int8 weights, scaled per output channel, and uint8 activations.

    The range of each activation is its minimum to its maximum over `images_u8` (N, C, H, W), of which the first
    MAX_CALIBRATION_IMAGES are used. Weights take 7 of the 8 bits, so that all processors give the same result. The
    format is QDQ with U8S8, which ONNX Runtime runs fastest on x86. Layers that are faster in float32 stay in float32.
    """
    return quantize(translate(net, card, opset=opset), card, images_u8)


def quantize(
    exported: onnx.ModelProto, card: ModelCard, images_u8: NDArray[np.uint8], *, matrices: bool = True
) -> bytes:
    """Return what `to_int8` returns, for a graph that `translate` returned; optionally without int8 matrices."""
    # imported here because it takes a second, and only int8 needs it
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._batches = _calibration_batches(images_u8)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._batches, None)

    proto = onnx.load_model_from_string(serialize(apply_passes(exported, ANY_PRECISION), card))
    # without this entry, quantize_static warns that the model was not preprocessed
    proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            path,
            CalibrationImages(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(INT8_OPS),
            nodes_to_exclude=list(_float32_nodes(proto.graph, matrices=matrices)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # -64..64: without VNNI, sums of two 8-bit products saturate at 16 bits
            # the next operator (bias, GELU, residual sum) needs float32
            extra_options={"OpTypesToExcludeOutputQuantization": list(MATRIX_OPS)},
        )
        return serialize(onnx.load_model(path), card)


def _float32_nodes(graph: onnx.GraphProto, *, matrices: bool) -> Iterator[str]:
    """Names of the nodes of INT8_OPS that stay in float32, because int8 would be slower or hardly smaller.

    They are the nodes before the first Conv with at least MIN_INT8_CHANNELS, products with small matrices or with
    activations, and Adds with an input that comes neither from Conv or Relu nor from an int8 Add.
    """
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    first_conv = next((index for index, node in enumerate(graph.node) if _is_wide_conv(node, shapes)), len(graph.node))
    addends = {output for node in graph.node if node.op_type in ("Conv", "Relu") for output in node.output}
    for index, node in enumerate(graph.node):
        if node.op_type in MATRIX_OPS:
            is_int8 = matrices and _has_large_matrix(node, shapes)
        else:
            is_int8 = index >= first_conv and (node.op_type != "Add" or addends.issuperset(node.input))
        if node.op_type == "Add" and is_int8:
            addends.update(node.output)
        if node.op_type in INT8_OPS and not is_int8:
            yield node.name


def _is_wide_conv(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] >= MIN_INT8_CHANNELS


def _has_large_matrix(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the node multiplies by a constant matrix; ONNX Runtime rejects int8 weights with more than two axes."""
    shape = shapes.get(node.input[1], ())
    return len(shape) == 2 and prod(shape) >= MIN_INT8_WEIGHTS


def _calibration_batches(images_u8: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    images_u8 = images_u8[:MAX_CALIBRATION_IMAGES]
    size = max(1, min(CALIBRATION_BATCH_SIZE, MAX_CALIBRATION_BATCH_BYTES // prod(images_u8.shape[1:])))
    return ({INPUT: images_u8[start : start + size]} for start in range(0, len(images_u8), size))
