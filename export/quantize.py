"""Float16 and int8 variants of a model, for speed and size.

Their outputs differ from the network's by more than rounding, so the exporter checks their accuracy.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.export.convert import OPSET, convert, serialize
from netkit.export.passes import ANY_PRECISION
from netkit.infer.model.onnx_file import INPUT

MAX_CALIBRATION_IMAGES = 1000  # the first training images; their activations set the int8 ranges
CALIBRATION_BATCH_SIZE = 100
QUANTIZED_OPS = ("Conv", "Gemm", "Relu", "Add")  # with pools and concatenations as well, densenet was 6 % slower
MIN_INT8_CHANNELS = 8  # input channels; a Conv with 1 took 12.5 us in int8 and 2.3 us in float32


def to_fp16(net: nn.Module, card: ModelCard, *, opset: int) -> bytes:
    """Return the bytes of an ONNX model that computes in float16, for GPUs; logits and probabilities are float32."""
    try:
        return convert(net, card, opset=opset, dtype=torch.float16, passes=ANY_PRECISION)
    except ModelError as exc:
        convert(net, card, opset=opset, passes={})  # if float32 fails, too, float16 is not the cause
        hint = "for float16, store constants with register_buffer, not as attributes, and do not cast"
        raise ModelError(f"{exc}; {hint}") from None


def to_int8(net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8], *, opset: int = OPSET) -> bytes:
    """Return the bytes of an ONNX model with int8 weights, scaled per output channel, and uint8 activations.

    The range of each activation is its minimum to its maximum over `images_u8` (N, C, H, W), of which the first
    MAX_CALIBRATION_IMAGES are used. Weights take 7 of the 8 bits, so that all processors give the same result. The
    format is QDQ with U8S8, which ONNX Runtime runs fastest on x86. Layers that are faster in float32 stay in float32.
    """
    # imported here because it takes a second, and only int8 needs it
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._batches = _calibration_batches(images_u8)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._batches, None)

    proto = onnx.load_model_from_string(convert(net, card, opset=opset, passes=ANY_PRECISION))
    # without this entry, quantize_static warns that the model was not preprocessed
    proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            path,
            CalibrationImages(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPS),
            nodes_to_exclude=list(_faster_in_float32(proto.graph)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # -64..64: without VNNI, sums of two 8-bit products saturate at 16 bits
        )
        return serialize(onnx.load_model(path), card)


def _faster_in_float32(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the nodes before the first Conv with at least MIN_INT8_CHANNELS, and of Adds with a float32 input."""
    kernels = {weight.name: weight.dims for weight in graph.initializer}
    is_wide_conv = [
        node.op_type == "Conv" and kernels.get(node.input[1], (0, 0))[1] >= MIN_INT8_CHANNELS for node in graph.node
    ]
    yield from (node.name for node in graph.node[: is_wide_conv.index(True) if any(is_wide_conv) else 0])
    op_types = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Add" and not {op_types.get(name) for name in node.input} <= set(QUANTIZED_OPS):
            yield node.name


def _calibration_batches(images_u8: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    images_u8 = images_u8[:MAX_CALIBRATION_IMAGES]
    starts = range(0, len(images_u8), CALIBRATION_BATCH_SIZE)
    return ({INPUT: images_u8[start : start + CALIBRATION_BATCH_SIZE]} for start in starts)
