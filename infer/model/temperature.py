"""The temperature of an ONNX model: a factor between its logits and the Softmax that computes its probabilities."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from netkit.core.errors import ModelError
from netkit.core.model_card import METADATA_KEY, Confidence
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import OUTPUTS, Model

LOGITS, PROBABILITIES = OUTPUTS
SCALED, FACTOR = "netkit.scaled_logits", "netkit.inverse_temperature"  # names in the graph


def set_temperature(proto: onnx.ModelProto, temperature: float) -> None:
    """Make the model compute its probabilities as softmax(logits / temperature); for 1, without a division.

    Raises ModelError if the probabilities are not the Softmax of the logits.
    """
    graph = proto.graph
    softmax = next((node for node in graph.node if PROBABILITIES in node.output), None)
    if softmax is None or softmax.op_type != "Softmax" or softmax.input[0] not in (LOGITS, SCALED):
        raise ModelError("the probabilities of the model are not the Softmax of its logits; export it again")
    if softmax.input[0] == SCALED:
        graph.node.remove(next(node for node in graph.node if SCALED in node.output))
        graph.initializer.remove(next(constant for constant in graph.initializer if constant.name == FACTOR))
        softmax.input[0] = LOGITS
    if temperature != 1:
        graph.initializer.append(numpy_helper.from_array(np.array(1 / temperature, np.float32), FACTOR))
        graph.node.insert(list(graph.node).index(softmax), helper.make_node("Mul", [LOGITS, FACTOR], [SCALED], SCALED))
        softmax.input[0] = SCALED


def with_confidence(model: Model, confidence: Confidence) -> Model:
    """Return the model with another temperature, in its graph and in its card. The other metadata stay as they are."""
    proto = onnx.load_model_from_string(model.content)
    set_temperature(proto, confidence.temperature)
    set_metadata(proto, METADATA_KEY, replace(model.card, confidence=confidence).to_json())
    return onnx_file.check(proto.SerializeToString(deterministic=True), model.name)


def set_metadata(proto: onnx.ModelProto, key: str, value: str) -> None:
    """Set an entry of the metadata of the model."""
    entry = next((entry for entry in proto.metadata_props if entry.key == key), None) or proto.metadata_props.add()
    entry.key, entry.value = key, value
