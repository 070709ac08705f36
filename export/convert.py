"""From a net and its card to an ONNX model in memory: uint8 pixels in, logits and probabilities out, any batch size."""

import copy
from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from netkit.core.errors import UsageError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.export.passes.rewrite import PASSES, Pass, rewritten
from netkit.infer.model.onnx_file import INPUT, OUTPUTS
from netkit.nets.normalize import FromPixels

OPSET = 20  # torch's default; loads in every ONNX Runtime since 1.17
OPSETS = range(18, 24)  # what torch's exporter and ONNX Runtime 1.31 have in common
LARGEST_CONSTANT = 2**24  # numbers; what a graph computes from constants alone is computed beforehand
IR_VERSION = 10  # onnx's own newest does not load in ONNX Runtime 1.31


class Classifier(nn.Module):
    """What the ONNX graph computes: (N, C, H, W) uint8 -> logits and probabilities, both (N, classes) float32."""

    def __init__(self, model: FromPixels) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images).float()
        return logits, logits.softmax(dim=1)


class MeanOfPlaces(nn.Module):
    """nn.AdaptiveAvgPool2d(1): maps (N, C, H, W) -> (N, C, 1, 1)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)


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
        Classifier(FromPixels(_plainly_pooled(net), card).to(dtype)).eval(),
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None  # it is None only without dynamo
    return _folded(program.model_proto)


def _plainly_pooled(net: nn.Module) -> nn.Module:
    """The net with its pools over all places as means: where channels lie last, the exporter makes indices of them."""
    net = copy.deepcopy(net)
    pools = [name for name, module in net.named_modules() if _pools_all(module)]
    for name in pools:
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, MeanOfPlaces())
    return net


def _pools_all(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With what it computes from constants alone, as Swin's masks, computed; the exporter leaves the large ones."""
    if not any(node.op_type == "ConstantOfShape" for node in proto.graph.node):
        return proto
    model = ir.from_proto(proto)
    optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,  # None: as it would by itself
        input_size_limit=LARGEST_CONSTANT,
        output_size_limit=LARGEST_CONSTANT,
    )
    optimizer.optimize(model, input_size_limit=LARGEST_CONSTANT, output_size_limit=LARGEST_CONSTANT)
    return ir.to_proto(model)


def _strip(proto: onnx.ModelProto) -> None:
    """Take out the exporter's own metadata, which holds stack traces with the paths of this machine."""
    graph = proto.graph
    parts: Iterable[Any] = (
        proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info
    )  # fmt: skip
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
