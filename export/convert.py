"""From a net and its card to an ONNX model in memory: uint8 pixels in, logits and probabilities out, any batch size."""

from collections.abc import Iterable
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.rewrite import PASSES, Pass, rewritten
from infer.model import INPUT, OUTPUTS
from nets.card import METADATA_KEY, ModelCard
from nets.errors import UsageError
from nets.pixels import FromPixels

OPSET = 20  # torch's default; loads in every ONNX Runtime since 1.17
OPSETS = range(18, 24)  # what torch's exporter and ONNX Runtime 1.31 have in common
IR_VERSION = 10  # onnx's own newest does not load in ONNX Runtime 1.31


class Classifier(nn.Module):
    """What the ONNX graph computes: (N, C, H, W) uint8 -> logits and probabilities, both (N, classes) float32."""

    def __init__(self, model: FromPixels) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images).float()
        return logits, logits.softmax(dim=1)


def convert(
    net: nn.Module,
    card: ModelCard,
    *,
    opset: int = OPSET,
    dtype: torch.dtype = torch.float32,
    passes: Iterable[Pass] = PASSES,
) -> bytes:
    """The bytes of an ONNX model that computes `net` on pixels, with `card` in its metadata; all in one file.

    Computes in `dtype`, which the net becomes, by the graph that `passes` leave. Raises UsageError for an opset outside
    OPSETS.
    """
    return finished(rewritten(translate(net, card, opset=opset, dtype=dtype), passes), card)


def finished(proto: onnx.ModelProto, card: ModelCard) -> bytes:
    """The bytes of `proto` with `card` and no other metadata, checked."""
    _strip(proto)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "netkit", card.origin.netkit
    proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def translate(
    net: nn.Module, card: ModelCard, *, opset: int = OPSET, dtype: torch.dtype = torch.float32
) -> onnx.ModelProto:
    """What torch's exporter makes of `net` on pixels, its notes on where each node comes from included."""
    if opset not in OPSETS:
        raise UsageError(f"--opset {opset}: netkit exports opsets {OPSETS.start} to {OPSETS.stop - 1}")
    example = torch.zeros(2, card.channels, card.height, card.width, dtype=torch.uint8)  # 1 would fix the batch at 1
    program = torch.onnx.export(
        Classifier(FromPixels(net, card).to(dtype)).eval(),
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None  # it is None only without dynamo
    proto: onnx.ModelProto = program.model_proto
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Take out the exporter's own metadata, which holds stack traces with the paths of this machine."""
    graph = proto.graph
    parts: Iterable[Any] = (
        proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info
    )  # fmt: skip
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
