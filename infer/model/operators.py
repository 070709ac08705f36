"""Rules for the graph of an untrusted ONNX model, checked before ONNX Runtime opens it.

All operators of the standard domain are allowed except those in REFUSED. Shapes must not depend on the pixels, and the
memory and time for one image are bounded. docs/operators.md lists the rules.
"""

import math
import re
from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from netkit.core.errors import ModelError
from netkit.infer.model.cost import cost
from netkit.infer.model.shapes import trace
from netkit.infer.model.tensors import MAX_LENGTH, Step, Tensor, attribute

STANDARD_DOMAINS = ("", "ai.onnx")
OPSETS = range(18, 24)  # that 'netkit export' writes
REFUSED = {
    operator: reason
    for reason, operators in {
        "has a subgraph": "If Loop Scan SequenceMap",
        "returns random numbers": "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
        "has an output whose shape depends on the pixels": "Compress NonMaxSuppression NonZero Unique",
        "pools or unpools at positions that depend on the pixels": "MaxRoiPool MaxUnpool RoiAlign",
        "decodes image files": "ImageDecoder",
        "is for text": "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
        "is for sequences": """
            ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
            SplitToSequence
            """,
        "is for optional values": "Optional OptionalGetElement OptionalHasElement",
    }.items()
    for operator in operators.split()
}
TERM = rb"[A-Za-z ]*(\.\.\.)?[A-Za-z ]*"
EQUATION = re.compile(rb"%b(,%b)*(->%b)?" % (TERM, TERM, TERM))
# the least number in an attribute; smaller numbers can end the process
LEAST = dict.fromkeys(("batch_dims", "block_size", "output_padding", "rotary_embedding_dim"), 0) | dict.fromkeys(
    """
    blocksize dilations group hidden_size kernel_shape kv_num_heads num_groups num_heads num_outputs offset_group p
    q_num_heads size strides
    """.split(),
    1,
)
ATTRIBUTE_TYPES: tuple[int, ...] = (
    AttributeProto.FLOAT,
    AttributeProto.FLOATS,
    AttributeProto.INT,
    AttributeProto.INTS,
    AttributeProto.STRING,
    AttributeProto.STRINGS,
    AttributeProto.TENSOR,
)
FLOATS: tuple[int, ...] = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
OTHER_TYPES = (TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
MANY = 64  # images; what grows in proportion to the batch from 1 to 64 images goes on growing so

# The bounds for one image, several times what torchvision's classifiers need (docs/operators.md)
MAX_NODES = 10_000
MAX_TENSOR_BYTES = 2**28
MAX_TENSOR_BYTES_PER_PIXEL = 2**10  # 256 channels in float32 as large as the image
MAX_TOTAL_BYTES = 2**32
MAX_TOTAL_BYTES_PER_PIXEL = 2**16
MAX_MULTIPLY_ADDS = 2**36
MAX_MULTIPLY_ADDS_PER_PIXEL = 2**23


def require_safe(proto: ModelProto, *, file_bytes: int, name: str) -> None:
    """Raise ModelError unless the model keeps to the rules. The only input of its graph is `images` (N, C, H, W)."""
    _require_standard(proto, name)
    for tensor in _tensors(proto.graph):
        _require_inside_file(tensor, file_bytes, name)
    for node in proto.graph.node:
        _require_allowed(node, name)
    one, many = (list(trace(proto, batch_size, name)) for batch_size in (1, MANY))
    for step in one:
        _require_safe_values(step)
    _require_bounded(one, proto.graph, name)
    _require_proportional(one, many)


def _require_standard(proto: ModelProto, name: str) -> None:
    graph = proto.graph
    if len(graph.input) != 1:
        raise ModelError(f"{name}: has {len(graph.input)} inputs; a model has one, the images")
    domains = {opset.domain for opset in proto.opset_import} | {node.domain for node in graph.node}
    if foreign := domains.difference(STANDARD_DOMAINS):
        used = ", ".join(sorted(map(repr, foreign)))
        raise ModelError(f"{name}: uses the operator domains {used}; netkit runs standard ONNX operators only")
    if proto.functions:
        raise ModelError(f"{name}: uses model-local functions; netkit runs standard ONNX operators only")
    opsets = [opset.version for opset in proto.opset_import]
    if len(opsets) != 1 or opsets[0] not in OPSETS:
        raise ModelError(
            f"{name}: uses opset {', '.join(map(str, opsets)) or 'none'}; netkit runs opsets {OPSETS.start} to "
            f"{OPSETS.stop - 1}; export the model again with 'netkit export'"
        )
    if graph.sparse_initializer:
        raise ModelError(f"{name}: sparse initializers are not allowed")
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{name}: has {len(graph.node):,} operators; at most {MAX_NODES:,} are allowed")


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for entry in node.attribute:
            yield from (*([entry.t] if entry.HasField("t") else []), *entry.tensors)


def _require_inside_file(tensor: TensorProto, file_bytes: int, name: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(f"{name}: tensor {tensor.name!r} is external data; netkit runs single-file models only")
    # the smallest type has two elements in a byte
    if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 2 * file_bytes:
        raise ModelError(f"{name}: tensor {tensor.name!r} has the shape {list(tensor.dims)}, but not as many values")


def _require_allowed(node: NodeProto, name: str) -> None:
    """Raise ModelError if the operator or one of its attributes is not allowed."""
    operator = f"{name}: operator {node.op_type}"
    if not node.output:
        raise ModelError(f"{operator} has no output")
    if len({entry.name for entry in node.attribute}) != len(node.attribute):
        raise ModelError(f"{operator} has two attributes with the same name")
    for entry in node.attribute:
        if entry.HasField("g") or entry.graphs:
            raise ModelError(f"{operator} has a subgraph, which netkit does not allow")
        if entry.type not in ATTRIBUTE_TYPES or entry.ref_attr_name:
            raise ModelError(f"{operator}: the attribute {entry.name!r} has a type that netkit does not allow")
        if entry.name == "training_mode" and entry.i:
            raise ModelError(f"{operator} is in training mode; export the network in evaluation mode")
        if entry.name == "output_shape":  # onnx does not infer all shapes for it
            raise ModelError(f"{operator}: the attribute 'output_shape' is not allowed; use pads and output_padding")
        numbers = [*entry.ints, *([entry.i] if entry.type == AttributeProto.INT else [])]
        if node.op_type != "Constant" and any(abs(number) > MAX_LENGTH for number in numbers):
            raise ModelError(f"{operator}: the attribute {entry.name!r} has a number over {MAX_LENGTH:,}")
        least = LEAST.get(entry.name, -MAX_LENGTH)
        if min(numbers, default=least) < least:
            raise ModelError(f"{operator}: the attribute {entry.name!r} must be {least} or more, not {numbers}")
    # the shape inference of onnx does not end, or ends the process, for other equations and numbers of outputs
    if node.op_type == "Einsum" and not EQUATION.fullmatch(attribute(node, "equation", b"")):
        raise ModelError(f"{operator}: its equation must consist of letters and at most one '...' for each tensor")
    if node.op_type == "Split" and attribute(node, "num_outputs", len(node.output)) != len(node.output):
        raise ModelError(f"{operator}: its attribute 'num_outputs' must be the number of its outputs")
    if node.op_type in REFUSED:
        raise ModelError(f"{operator} is not allowed: it {REFUSED[node.op_type]}; write the network without it")


def _require_safe_values(step: Step) -> None:
    """Raise ModelError if the values that an operator must not have cannot be ruled out."""
    node = step.node
    if node.op_type in ("Div", "Mod") and step.outputs[0] and step.outputs[0].dtype not in FLOATS:
        divisor = step.inputs[1] and step.inputs[1].constant
        if divisor is None or np.isin(divisor, (0, -1)).any():
            raise ModelError(
                f"{step.label}: an integer may be divided only by constants other than 0 and -1, because another "
                "divisor can end the process; divide floating-point numbers instead"
            )
    if node.op_type == "Range" and any(number is None or number.constant is None for number in step.inputs[::2]):
        raise ModelError(f"{step.label}: start and delta must be constants, so that its length grows with the batch")
    if node.op_type == "Dropout" and len(step.inputs) > 2 and step.inputs[2]:
        training = step.inputs[2].constant
        if training is None or training.any():
            raise ModelError(f"{step.label} is in training mode; export the network in evaluation mode")


def _require_bounded(steps: list[Step], graph: GraphProto, name: str) -> None:
    """Raise ModelError if one image takes too much memory or time; `steps` has the shapes for one image."""
    height, width = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[2:])
    pixels = height * width
    total_bytes = multiply_adds = 0
    weights = {tensor.name for tensor in graph.initializer}
    for step in steps:
        work = cost(step)
        for tensor in filter(None, step.outputs):
            _require_elements(step, tensor)
            total_bytes += tensor.nbytes
        largest = max(4 * work.workspace, *(tensor.nbytes for tensor in step.outputs if tensor))
        multiply_adds += work.multiply_adds
        if step.node.op_type == "DequantizeLinear" and step.node.input[0] in weights:
            continue  # a large int8 weight, like a large float32 weight, counts only in the sum
        _require_at_most(step.label, largest, MAX_TENSOR_BYTES + MAX_TENSOR_BYTES_PER_PIXEL * pixels, "bytes")
    label = f"{name}: the network"
    _require_at_most(label, total_bytes, MAX_TOTAL_BYTES + MAX_TOTAL_BYTES_PER_PIXEL * pixels, "bytes")
    limit = MAX_MULTIPLY_ADDS + MAX_MULTIPLY_ADDS_PER_PIXEL * pixels
    _require_at_most(label, multiply_adds, limit, "multiply-adds")


def _require_elements(step: Step, tensor: Tensor) -> None:
    if tensor.dtype in OTHER_TYPES or tensor.dtype not in TensorProto.DataType.values():
        raise ModelError(f"{step.label}: its output has a type that netkit does not allow")
    if not tensor.elements and len(tensor.shape) != 1:
        raise ModelError(f"{step.label}: its output, of shape {tensor.shape}, has no elements")


def _require_at_most(label: str, value: int, limit: int, unit: str) -> None:
    if value > limit:
        raise ModelError(f"{label} needs {value:,} {unit} for one image; at most {limit:,} are allowed")


def _require_proportional(one: list[Step], many: list[Step]) -> None:
    """Raise ModelError if the memory or time of a node grows faster than the number of images."""
    for step, larger in zip(one, many, strict=True):
        if any(after > MANY * max(before, 1) for before, after in zip(_amounts(step), _amounts(larger), strict=True)):
            raise ModelError(
                f"{step.label}: needs more than {MANY} times the memory or time for {MANY} images as for one, so it "
                "seems to combine the images of a batch; process each image separately"
            )


def _amounts(step: Step) -> tuple[int, ...]:
    return *cost(step), *(tensor.elements for tensor in step.outputs if tensor)
