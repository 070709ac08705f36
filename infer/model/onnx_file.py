"""Model: an .onnx file, read and checked as a whole before ONNX Runtime opens the same bytes."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from netkit.core.atomic_io import READING
from netkit.core.errors import CardError, ModelError
from netkit.core.model_card import METADATA_KEY, ModelCard

INPUT, OUTPUTS = "images", ("logits", "probabilities")
STANDARD_DOMAINS = ("", "ai.onnx")
# The operators of convolutional networks and of vision transformers. Others can crash the process (an integer
# division), allocate any amount of memory (ConstantOfShape), never end (Loop), or give random answers (RandomNormal).
OPERATORS = frozenset(
    """
    Add AveragePool BatchNormalization Cast Clip Concat Constant Conv DequantizeLinear Expand Flatten Gather Gelu Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LayerNormalization LeakyRelu MatMul MaxPool Mul PRelu
    Pad QuantizeLinear ReduceMean Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Transpose Unsqueeze
    """.split()
)
MAX_PAD = 64  # pixels; more padding could exhaust the memory
MAX_FILE_BYTES = 2**31 - 1  # the limit of protobuf

Signature = tuple[int, tuple[int | None, ...]]  # element type and shape; None is a size that the model leaves open


@dataclass(frozen=True)
class Model:
    """The bytes of a checked ONNX model, its metadata and its card. `name`, usually the path, is for messages.

    `graph_sha256` covers the graph, the operator sets and the IR version, but not the metadata.
    """

    name: str
    content: bytes = field(repr=False)
    card: ModelCard
    metadata: Mapping[str, str] = field(repr=False)
    graph_sha256: str

    @property
    def sha256(self) -> str:
        """The SHA-256 of the whole file."""
        return hashlib.sha256(self.content).hexdigest()


def read(path: Path) -> Model:
    """The model in the file `path`. Raises ModelError if it cannot be read, and otherwise as `check` does."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, READING)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path}: cannot be read: not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ModelError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, the most that an ONNX file can hold")
            content = file.read(MAX_FILE_BYTES)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from None
    return check(content, str(path))


def check(content: bytes, name: str) -> Model:
    """The model in `content`, the bytes of an ONNX file.

    Raises ModelError if they are not an ONNX model, refer to other files, use operators that netkit does not allow, or
    have other inputs and outputs than the card says; CardError if the card is missing or malformed.
    """
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError:
        raise ModelError(f"{name}: not an ONNX model") from None
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if METADATA_KEY not in metadata:
        raise CardError(f"{name}: no netkit card in this model; make it again with 'netkit export'")
    try:
        card = ModelCard.from_json(metadata[METADATA_KEY])
    except CardError as exc:
        raise CardError(f"{name}: {exc}") from None
    _require_safe(proto, name)
    _require_signature(proto.graph, card, name)
    return Model(name, content, card, metadata, graph_sha256(proto))


def graph_sha256(proto: onnx.ModelProto) -> str:
    """The SHA-256 of the graph, the operator sets and the IR version: of everything that determines the answers."""
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=proto.graph)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _require_safe(proto: onnx.ModelProto, name: str) -> None:
    graph = proto.graph
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(f"{name}: tensor {tensor.name!r} lies in another file; netkit runs one file")
    foreign = {opset.domain for opset in proto.opset_import} | {node.domain for node in graph.node}
    foreign.difference_update(STANDARD_DOMAINS)
    if foreign or proto.functions:
        used = f"operators of {', '.join(sorted(map(repr, foreign)))}" if foreign else "functions of its own"
        raise ModelError(f"{name}: uses {used}; netkit runs standard ONNX operators only")
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(f"{name}: has a node {node.op_type} with a graph of its own, which might run for ever")
        if node.op_type not in OPERATORS:
            raise ModelError(f"{name}: uses the operator {node.op_type!r}; netkit runs those of nets for images")
        if not all(0 <= pad <= MAX_PAD for pad in _pads(node, graph)):
            raise ModelError(f"{name}: has a node {node.op_type} that pads by more than {MAX_PAD}")
    if graph.sparse_initializer:
        raise ModelError(f"{name}: has sparse tensors, which can ask for any memory")


def _pads(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[int]:
    """The pixels by which a node pads each side; [-1] if they are not constants in the file."""
    pads = [pad for attribute in node.attribute if attribute.name == "pads" for pad in attribute.ints]
    if node.op_type == "Pad":
        try:
            (weights,) = (tensor for tensor in graph.initializer if tensor.name in node.input[1:2])
            pads += onnx.numpy_helper.to_array(weights).tolist()
        except (ValueError, TypeError):
            return [-1]
    return pads


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _require_signature(graph: onnx.GraphProto, card: ModelCard, name: str) -> None:
    """Raise ModelError unless the graph's inputs and outputs are those that follow from the card."""
    inputs = {value.name: _signature(value) for value in graph.input}
    outputs = {value.name: _signature(value) for value in graph.output}
    images: Signature = onnx.TensorProto.UINT8, (None, card.channels, card.height, card.width)
    scores: Signature = onnx.TensorProto.FLOAT, (None, len(card.labels))
    if inputs != {INPUT: images} or outputs != dict.fromkeys(OUTPUTS, scores):
        raise ModelError(
            f"{name}: takes {_format(inputs)} and gives {_format(outputs)}; by its card it would take "
            f"{_format({INPUT: images})} and give {_format(dict.fromkeys(OUTPUTS, scores))}"
        )


def _signature(value: onnx.ValueInfoProto) -> Signature:
    tensor = value.type.tensor_type
    return tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _format(signatures: Mapping[str, Signature]) -> str:
    """Such as "images UINT8 (N, 1, 28, 28)", joined by "and"."""
    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    return " and ".join(
        f"{name} {names.get(kind, f'type {kind}')} ({', '.join('N' if side is None else str(side) for side in shape)})"
        for name, (kind, shape) in signatures.items()
    )
