"""Model: an .onnx file, read whole, checked, and its card taken out. A session opens these very bytes."""

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
# Those of convolutional nets and of transformers for images. Others can end the process (an integer division), ask for
# any memory (ConstantOfShape), run for ever (Loop), or answer by chance (RandomNormal).
OPERATORS = frozenset(
    """
    Add AveragePool BatchNormalization Cast Clip Concat Constant Conv DequantizeLinear Expand Flatten Gather Gelu Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LayerNormalization LeakyRelu MatMul MaxPool Mul PRelu
    Pad QuantizeLinear ReduceMean Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Transpose Unsqueeze
    """.split()
)
LARGEST_PAD = 64  # pixels; more would only ask for memory
LARGEST_FILE = 2**31 - 1  # bytes; protobuf holds no more


@dataclass(frozen=True)
class Model:
    """The bytes of a checked ONNX model, its metadata, and the card in them. `name` is for messages: a path, mostly.

    `graph_sha256` is that of the graph, the operator sets and the IR version, not of the metadata.
    """

    name: str
    content: bytes = field(repr=False)
    card: ModelCard
    metadata: Mapping[str, str] = field(repr=False)
    graph_sha256: str

    @property
    def sha256(self) -> str:
        """Of all the bytes."""
        return hashlib.sha256(self.content).hexdigest()


def read(path: Path) -> Model:
    """The model in the file `path`; errors as `check` has them, and ModelError where it cannot be read."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, READING)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path}: cannot be read: not a regular file")
            if status.st_size > LARGEST_FILE:
                raise ModelError(f"{path}: larger than {LARGEST_FILE:,} bytes, the most that an ONNX file can hold")
            content = file.read(LARGEST_FILE)
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read: {fault.strerror}") from None
    return check(content, str(path))


def check(content: bytes, name: str) -> Model:
    """The model in `content`, an ONNX file's bytes.

    Raises ModelError where they are no ONNX model, refer to other files, use operators outside the ONNX standard, or
    take and give other tensors than the card says; CardError where there is no card.
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
    except CardError as fault:
        raise CardError(f"{name}: {fault}") from None
    _refuse_unsafe(proto, name)
    _refuse_misfits(proto.graph, card, name)
    return Model(name, content, card, metadata, graph_sha256(proto))


def graph_sha256(proto: onnx.ModelProto) -> str:
    """Of the graph, the operator sets and the IR version: of what is computed."""
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=proto.graph)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _refuse_unsafe(proto: onnx.ModelProto, name: str) -> None:
    graph = proto.graph
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(f"{name}: tensor {tensor.name!r} lies in another file; netkit runs one file")
    foreign = {opset.domain for opset in proto.opset_import} | {node.domain for node in graph.node}
    foreign.difference_update(STANDARD_DOMAINS)
    if foreign or proto.functions:
        what = f"operators of {', '.join(sorted(map(repr, foreign)))}" if foreign else "functions of its own"
        raise ModelError(f"{name}: uses {what}; netkit runs standard ONNX operators only")
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(f"{name}: has a node {node.op_type} with a graph of its own, which might run for ever")
        if node.op_type not in OPERATORS:
            raise ModelError(f"{name}: uses the operator {node.op_type!r}; netkit runs those of nets for images")
        if not all(0 <= pad <= LARGEST_PAD for pad in _pads(node, graph)):
            raise ModelError(f"{name}: has a node {node.op_type} that pads by more than {LARGEST_PAD}")
    if graph.sparse_initializer:
        raise ModelError(f"{name}: has sparse tensors, which can ask for any memory")


def _pads(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[int]:
    """By how many pixels a node pads; -1 where the file does not say it in so many numbers."""
    found = [pad for attribute in node.attribute if attribute.name == "pads" for pad in attribute.ints]
    if node.op_type == "Pad":
        try:
            (weights,) = (tensor for tensor in graph.initializer if tensor.name in node.input[1:2])
            found += onnx.numpy_helper.to_array(weights).tolist()
        except (ValueError, TypeError):
            return [-1]
    return found


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _refuse_misfits(graph: onnx.GraphProto, card: ModelCard, name: str) -> None:
    inputs = {value.name: _signature(value) for value in graph.input}
    outputs = {value.name: _signature(value) for value in graph.output}
    classes = len(card.labels)
    pixels = (onnx.TensorProto.UINT8, (None, card.channels, card.height, card.width))
    floats = (onnx.TensorProto.FLOAT, (None, classes))
    if inputs != {INPUT: pixels} or outputs != dict.fromkeys(OUTPUTS, floats):
        raise ModelError(
            f"{name}: takes {_spell(inputs)} and gives {_spell(outputs)}; by its card it would take "
            f"{_spell({INPUT: pixels})} and give {_spell(dict.fromkeys(OUTPUTS, floats))}"
        )


def _signature(value: onnx.ValueInfoProto) -> tuple[int, tuple[int | None, ...]]:
    """Element type and shape; None stands for a size that the model leaves open."""
    tensor = value.type.tensor_type
    return tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _spell(values: dict[str, tuple[int, tuple[int | None, ...]]]) -> str:
    def one(name: str, kind: int, shape: tuple[int | None, ...]) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in shape)
        known = kind in onnx.TensorProto.DataType.values()
        return f"{name} {onnx.TensorProto.DataType.Name(kind) if known else f'type {kind}'} ({sides})"

    return " and ".join(one(name, *signature) for name, signature in values.items())
