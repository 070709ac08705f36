"""The shape of every tensor of an ONNX graph for one batch size, without running the graph.

A shape may depend on the batch size, but not on the pixels. The integers that operators such as Reshape take as a shape
are computed in `shape_values`. No length shrinks as the batch grows: what fits for one image and for many images also
fits in between.
"""

from collections.abc import Iterator, Mapping

from onnx import (
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    TypeProto,
    checker,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from netkit.core.errors import ModelError, first_line
from netkit.infer.model.shape_values import evaluate
from netkit.infer.model.tensors import MAX_LENGTH, Step, Tensor, has_large, read

SAME_TYPE = ("GroupNormalization", "MeanVarianceNormalization")  # onnx infers no shape: it is that of the first input
# the operators with inputs that set a shape; Slice, which may count to 2**63, is not among them
SHAPED_BY_INPUT = frozenset(
    """
    AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape DFT Expand HammingWindow HannWindow MelWeightMatrix
    OneHot Pad Range Reshape Resize STFT Split Tile TopK
    """.split()
)
INFERENCE_ERRORS = (
    shape_inference.InferenceError,
    checker.ValidationError,
    defs.SchemaError,
    TypeError,
    ValueError,
    LookupError,
    RuntimeError,
)


def trace(proto: ModelProto, batch_size: int, name: str) -> Iterator[Step]:
    """Yield the nodes of `proto` in order, with the shapes for `batch_size` images.

    Raises ModelError if a shape depends on the pixels, or if the graph is not valid for `batch_size` images.
    """
    (opset,) = proto.opset_import
    types, tensors, data = _before_first_node(proto, batch_size, name)
    for node in proto.graph.node:
        label = f"{name}: operator {node.op_type} ({node.name or ', '.join(map(str, node.output))})"
        if missing := [key for key in node.input if key and key not in types]:
            raise ModelError(f"{label}: its input {missing[0]!r} is not computed before it")
        if twice := [key for key in node.output if key in types]:
            raise ModelError(f"{label}: its output {twice[0]!r} is the name of another tensor")
        inputs = tuple(tensors[key] if key else None for key in node.input)
        inferred = _infer(node, opset, types, data, label)
        values = evaluate(node, inputs, [data.get(key) for key in node.input])
        # onnx infers the shape of the first input, but ONNX Runtime broadcasts both
        if node.op_type == "PRelu" and not _broadcasts(inputs[1], inputs[0]):
            raise ModelError(f"{label}: its slope must not have more elements along an axis than its input")
        for key in filter(None, node.output):
            types[key] = inferred.get(key, TypeProto())
            tensors[key] = _tensor(types[key], label)
        if values is not None:
            (key,) = node.output
            data[key] = numpy_helper.from_array(values, key)
            if node.op_type not in ("Shape", "Size") and all(i.constant is not None for i in inputs if i):
                tensors[key] = tensors[key]._replace(constant=values)
        yield Step(node, label, inputs, tuple(tensors[key] if key else None for key in node.output))


def _before_first_node(
    proto: ModelProto, batch_size: int, name: str
) -> tuple[dict[str, TypeProto], dict[str, Tensor], dict[str, TensorProto]]:
    """Return the types of the inputs and initializers, their shapes, and the initializers with few elements."""
    types: dict[str, TypeProto] = {}
    tensors: dict[str, Tensor] = {}
    data: dict[str, TensorProto] = {}
    for value in proto.graph.input:
        types[value.name] = TypeProto()
        types[value.name].CopyFrom(value.type)
        types[value.name].tensor_type.shape.dim[0].dim_value = batch_size
        tensors[value.name] = _tensor(types[value.name], f"{name}: input {value.name}")
    for initializer in proto.graph.initializer:
        if initializer.name in types:
            raise ModelError(f"{name}: two tensors have the name {initializer.name!r}")
        types[initializer.name] = helper.make_tensor_type_proto(initializer.data_type, initializer.dims)
        constant = read(initializer, f"{name}: initializer {initializer.name}")
        tensors[initializer.name] = Tensor(initializer.data_type, tuple(initializer.dims), constant)
        if constant is not None:
            data[initializer.name] = initializer
    return types, tensors, data


def _broadcasts(tensor: Tensor | None, to: Tensor | None) -> bool:
    """Whether a tensor can be broadcast to the shape of another."""
    if not tensor or not to or len(tensor.shape) > len(to.shape):
        return False
    pairs = zip(reversed(tensor.shape), reversed(to.shape), strict=False)
    return all(length in (1, other) for length, other in pairs)


def _tensor(type_proto: TypeProto, label: str) -> Tensor:
    dims = type_proto.tensor_type.shape.dim
    if not type_proto.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        raise ModelError(f"{label}: the shape of its output must not depend on the pixels, and must be known")
    shape = tuple(dim.dim_value for dim in dims)
    if min(shape, default=0) < 0:
        raise ModelError(f"{label}: the shape of its output is {shape}; a length must not be negative")
    return Tensor(type_proto.tensor_type.elem_type, shape)


def _infer(
    node: NodeProto,
    opset: OperatorSetIdProto,
    types: Mapping[str, TypeProto],
    data: Mapping[str, TensorProto],
    label: str,
) -> Mapping[str, TypeProto]:
    """Return the types of the node's outputs."""
    names = [key for key in node.input if key]
    known = {key: data[key] for key in names if key in data}
    if node.op_type in SHAPED_BY_INPUT:
        for key, value in known.items():
            if has_large(numpy_helper.to_array(value)):
                raise ModelError(f"{label}: its input {key!r} has a number over {MAX_LENGTH:,}")
    if node.op_type in SAME_TYPE:
        return dict.fromkeys(node.output[:1], types[names[0]]) if names else {}
    try:
        schema = defs.get_schema(node.op_type, opset.version, "")
        return shape_inference.infer_node_outputs(
            schema, node, {key: types[key] for key in names}, known, opset_imports=[opset]
        )
    except INFERENCE_ERRORS as exc:
        raise ModelError(f"{label}: is not valid: {first_line(exc)}") from None
