"""Variants: the same net in fewer bits, for speed and size. Not the same function: accuracy is what must hold."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.export.convert import OPSET, convert, finished
from netkit.export.passes.rewrite import LESS_WORK
from netkit.infer.model.onnx_file import INPUT

CALIBRATION = 1000  # training images, from the first on, by which the ranges of int8 are chosen
CHUNK = 100
QUANTIZED = ("Conv", "Gemm", "Relu", "Add")  # with pools or concatenations, too, densenet was 6 % slower
LEAST_CHANNELS = 8  # of a convolution's input: one in int8 on a single channel took 12.5 us, in float32 2.3


def half(net: nn.Module, card: ModelCard, *, opset: int) -> bytes:
    """The bytes of an ONNX model that computes in float16, for GPUs; logits and probabilities are float32."""
    return convert(copy.deepcopy(net), card, opset=opset, dtype=torch.float16, passes=LESS_WORK)


def quantized(net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8], *, opset: int = OPSET) -> bytes:
    """The bytes of an ONNX model whose weights are int8, each output channel with its scale, and activations uint8.

    Weights take 7 of the 8 bits, so that all processors compute the same. The activations' ranges are what `images_u8`
    (N, C, H, W) span. U8S8 in QDQ form, which ONNX Runtime runs fastest on x86. What is faster in float32 stays so.
    """
    # a second that only int8 should cost
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self._chunks = _chunks(images_u8)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._chunks, None)

    proto = onnx.load_model_from_string(convert(net, card, opset=opset, passes=LESS_WORK))
    proto.metadata_props.add(
        key="onnx.quant.pre_process", value="onnxruntime.quant"
    )  # else it warns of a pass left out
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=list(_faster_in_float(proto.graph)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # to -64..64: without VNNI sums of two products of 8 bits saturate at 16
        )
        return finished(onnx.load_model(path), card)


def _faster_in_float(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the nodes before the first convolution of many channels, and of sums of what stays in float32."""
    kernels = {weight.name: weight.dims for weight in graph.initializer}
    large = [node.op_type == "Conv" and kernels.get(node.input[1], (0, 0))[1] >= LEAST_CHANNELS for node in graph.node]
    yield from (node.name for node in graph.node[: large.index(True) if any(large) else 0])
    kinds = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Add" and not {kinds.get(name) for name in node.input} <= set(QUANTIZED):
            yield node.name


def _chunks(images_u8: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    few = images_u8[:CALIBRATION]
    return ({INPUT: few[start : start + CHUNK]} for start in range(0, len(few), CHUNK))
