"""Conversion of a network and its model card to ONNX: uint8 pixels in, logits and probabilities out."""

import json
from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from netkit.core.errors import ModelError, UsageError, first_line
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.export.attention import ExplicitAttention
from netkit.export.capture import capture, copied, to_onnx
from netkit.export.ceil_mode import drop_ceil_mode
from netkit.export.instance_norm import center_instance_norms
from netkit.export.passes import FLOAT32, Passes, apply_passes
from netkit.infer.model.onnx_file import MAX_FILE_BYTES
from netkit.infer.model.temperature import set_temperature
from netkit.nets.normalize import FromPixels

OPSET = 20  # torch's default; loads in every ONNX Runtime since 1.17
OPSETS = range(18, 24)  # supported by both torch's exporter and ONNX Runtime 1.31
IR_VERSION = 10  # the newest of the onnx package does not load in ONNX Runtime 1.31
MAX_FOLDED_ELEMENTS = 2**24  # elements of a tensor that constant folding may create


class Classifier(nn.Module):
    """The module that is exported: (N, C, H, W) uint8 -> logits and probabilities, both (N, classes) float32."""

    def __init__(self, model: FromPixels) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images).float()
        return logits, logits.softmax(dim=1)


class SpatialMean(nn.Module):
    """Equivalent of nn.AdaptiveAvgPool2d(1): (N, C, H, W) -> (N, C, 1, 1)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)


def convert(
    net: nn.Module,
    card: ModelCard,
    *,
    opset: int = OPSET,
    dtype: torch.dtype = torch.float32,
    passes: Passes = FLOAT32,
) -> bytes:
    """Return the bytes of an ONNX model that runs `net` on pixels, with any batch size and `card` in its metadata.

    The model computes in `dtype`; logits and probabilities are float32. `net` is not changed.

    Raises UsageError for an opset outside OPSETS.
    """
    return serialize(apply_passes(translate(net, card, opset=opset, dtype=dtype), passes), card)


def serialize(proto: onnx.ModelProto, card: ModelCard) -> bytes:
    """Set the temperature and the metadata of `proto`, check the model, and return its bytes.

    The metadata contain only `card`, and the parts of the card that other tools read.
    """
    _clear_metadata(proto)
    set_temperature(proto, card.confidence.temperature, name=card.arch)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "netkit", card.origin.netkit
    metadata = {
        METADATA_KEY: card.to_json(),
        "Image.BitmapPixelFormat": "Gray8" if card.channels == 1 else "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
        # Ultralytics' tools read it as a Python literal, in which an escaped surrogate pair would be two characters
        "names": json.dumps(dict(enumerate(card.labels)), ensure_ascii=False),
    }
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ModelError(f"{card.arch}: its ONNX graph is not valid: {first_line(exc)}") from None
    return proto.SerializeToString(deterministic=True)


def translate(
    net: nn.Module, card: ModelCard, *, opset: int = OPSET, dtype: torch.dtype = torch.float32
) -> onnx.ModelProto:
    """Export `net` on pixels with torch.onnx.export; the nodes keep their metadata, which names their modules.

    Raises UsageError for an opset outside OPSETS, ModelError if torch cannot export the network.
    """
    if opset not in OPSETS:
        raise UsageError(f"--opset {opset}: netkit exports opsets {OPSETS.start} to {OPSETS.stop - 1}")
    _require_one_file(net, card.arch)
    # with a batch size of 1 in the example, torch would export a static batch size
    example = torch.zeros(2, card.channels, card.height, card.width, dtype=torch.uint8)
    classifier = Classifier(FromPixels(_with_spatial_means(copied(net, name=card.arch)), card).to(dtype)).eval()
    try:
        proto = to_onnx(capture(classifier, example, name=card.arch), opset=opset, name=card.arch)
    except ModelError:  # if attention is not the cause, the second attempt raises the same error
        with ExplicitAttention():
            program = capture(classifier, example, name=card.arch)
        proto = to_onnx(program, opset=opset, name=card.arch)
    drop_ceil_mode(proto)
    center_instance_norms(proto)
    return _fold_constants(proto)


def _require_one_file(net: nn.Module, name: str) -> None:
    nbytes = sum(tensor.nbytes for tensor in net.state_dict().values())
    if nbytes > MAX_FILE_BYTES:
        raise ModelError(
            f"{name}: has {nbytes:,} bytes of weights; one ONNX file without external data, which netkit does not "
            f"allow, has at most {MAX_FILE_BYTES:,}"
        )


def _with_spatial_means(net: nn.Module) -> nn.Module:
    """Replace each global pool of the network by a SpatialMean, and return the network.

    torch's exporter turns an adaptive pool of channels-last tensors, as in Swin, into index operations.
    """
    pools = [name for name, module in net.named_modules() if _is_global_pool(module)]
    for name in pools:
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, SpatialMean())
    return net


def _is_global_pool(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _fold_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, such as Swin's masks; torch's exporter leaves nodes with large results in the graph."""
    if not any(node.op_type == "ConstantOfShape" for node in proto.graph.node):
        return proto
    model = ir.from_proto(proto)
    optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,  # None: the optimizer's default
        input_size_limit=MAX_FOLDED_ELEMENTS,
        output_size_limit=MAX_FOLDED_ELEMENTS,
    )
    optimizer.optimize(model, input_size_limit=MAX_FOLDED_ELEMENTS, output_size_limit=MAX_FOLDED_ELEMENTS)
    return ir.to_proto(model)


def _clear_metadata(proto: onnx.ModelProto) -> None:
    """Remove the exporter's metadata, which includes stack traces with paths of this machine."""
    graph = proto.graph
    messages: Iterable[Any] = (
        proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info
    )  # fmt: skip
    for message in messages:
        del message.metadata_props[:]
        message.doc_string = ""
