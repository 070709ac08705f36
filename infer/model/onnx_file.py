"""Reader of .onnx files: it checks the bytes before ONNX Runtime opens the same bytes."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from netkit.core.atomic_io import READ_FLAGS
from netkit.core.errors import CardError, ModelError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.infer.model.operators import require_safe

INPUT, OUTPUTS = "images", ("logits", "probabilities")
MAX_FILE_BYTES = 2**31 - 1  # the limit of protobuf

Signature = tuple[int, tuple[int | None, ...]]  # element type and shape; None is a dynamic dimension


@dataclass(frozen=True)
class Model:
    """The bytes of a checked ONNX model, its metadata and its card.

    `name`, usually the path, is for messages. `graph_sha256` covers the graph, the operator sets and the IR version,
    but not the metadata.
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
    """Read the model in the file `path`. Raises ModelError if it cannot be read, and the errors of `check`."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, READ_FLAGS)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path}: cannot be read: not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ModelError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, the size limit of an ONNX file")
            content = file.read(MAX_FILE_BYTES)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from None
    return check(content, str(path))


def check(content: bytes, name: str) -> Model:
    """Check `content`, the bytes of an ONNX file, and return the model.

    Raises ModelError if it is not an ONNX model, has inputs and outputs that do not match the card, refers to other
    files, or breaks another rule of `operators`; CardError if the card is missing or malformed.
    """
    if not content:
        raise ModelError(f"{name}: is empty; export the model again with 'netkit export'")
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError:
        fix = "copy it again, or pass a file that 'netkit export' wrote"
        raise ModelError(f"{name}: is damaged, or not an ONNX model; {fix}") from None
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if METADATA_KEY not in metadata:
        raise CardError(
            f"{name}: was not written by 'netkit export', so it has no labels and no image size; netkit runs only "
            "models that it exported"
        )
    try:
        card = ModelCard.from_json(metadata[METADATA_KEY])
    except CardError as exc:
        raise CardError(f"{name}: {exc}; export the model again with 'netkit export'") from None
    _require_signature(proto.graph, card, name)
    require_safe(proto, file_bytes=len(content), name=name)
    return Model(name, content, card, metadata, graph_sha256(proto))


def graph_sha256(proto: onnx.ModelProto) -> str:
    """The SHA-256 of everything that determines the outputs: the graph, the operator sets and the IR version."""
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=proto.graph)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _require_signature(graph: onnx.GraphProto, card: ModelCard, name: str) -> None:
    """Raise ModelError unless the graph has the inputs and outputs that the card requires."""
    inputs = {value.name: _signature(value) for value in graph.input}
    outputs = {value.name: _signature(value) for value in graph.output}
    images: Signature = onnx.TensorProto.UINT8, (None, card.channels, card.height, card.width)
    scores: Signature = onnx.TensorProto.FLOAT, (None, len(card.labels))
    required_inputs, required_outputs = {INPUT: images}, dict.fromkeys(OUTPUTS, scores)
    if inputs != required_inputs or outputs != required_outputs:
        raise ModelError(
            f"{name}: has input {_format(inputs)} and output {_format(outputs)}; its model card requires input "
            f"{_format(required_inputs)} and output {_format(required_outputs)}"
        )


def _signature(value: onnx.ValueInfoProto) -> Signature:
    tensor = value.type.tensor_type
    return tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _format(signatures: Mapping[str, Signature]) -> str:
    """Format as "images UINT8 (N, 1, 28, 28)", joined by "and"."""
    dtypes = {number: name for name, number in onnx.TensorProto.DataType.items()}
    return " and ".join(
        f"{name} {dtypes.get(dtype, f'type {dtype}')} ({', '.join('N' if dim is None else str(dim) for dim in shape)})"
        for name, (dtype, shape) in signatures.items()
    )
