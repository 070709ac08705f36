"""ONNX models built by hand, without torch."""

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from netkit.core.model_card import METADATA_KEY, ModelCard

ZEROS = numpy_helper.from_array(np.zeros(10, np.float32), "saved")


def weights(card: ModelCard) -> NDArray[np.float32]:
    """Return the weights of `linear_model` (pixels, classes), so small that no probability is 0 or 1."""
    shape = card.channels * card.height * card.width, len(card.labels)
    return (np.random.default_rng(0).normal(size=shape) / 2000).astype(np.float32)


def linear_model(card: ModelCard) -> ModelProto:
    """Build a model that computes logits = pixels @ weights."""
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["cast"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", card.channels, card.height, card.width])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(card.labels)])
        for name in ("logits", "probabilities")
    ]
    graph = helper.make_graph(nodes, "linear", [images], outputs, [numpy_helper.from_array(weights(card), "weights")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    proto.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    return proto


def add_nodes(proto: ModelProto, nodes: str, **constants: ArrayLike) -> ModelProto:
    """Append nodes in ONNX's text format, such as "y = Add (cast, k); z = Relu (y)", and constants; return `proto`.

    Python's integers are int64, and its other numbers float32.
    """
    for name, value in constants.items():
        array = np.asarray(value)
        proto.graph.initializer.append(
            numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)
        )
    proto.graph.node.extend(onnx.parser.parse_node(node) for node in nodes.split(";") if node)
    return proto
