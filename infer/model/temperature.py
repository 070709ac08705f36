"""Temperature scaling in an ONNX graph: a Mul by 1 / temperature between the logits and the Softmax."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from netkit.core.errors import ModelError
from netkit.core.model_card import METADATA_KEY, Confidence, ModelCard
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import OUTPUTS, Model

LOGITS, PROBABILITIES = OUTPUTS
SCALED, FACTOR = "netkit_scaled_logits", "netkit_inverse_temperature"  # names in the graph


def set_temperature(proto: onnx.ModelProto, temperature: float, *, name: str) -> None:
    """Make the graph compute probabilities = softmax(logits / temperature). Replaces an earlier temperature.

    The temperature 1 needs no Mul. Raises ModelError, whose message begins with `name`, if the graph computes the
    probabilities in another way.
    """
    graph = proto.graph
    softmax = next((node for node in graph.node if PROBABILITIES in node.output), None)
    scale = next((node for node in graph.node if SCALED in node.output), None)
    factor = next((constant for constant in graph.initializer if constant.name == FACTOR), None)
    if scale and factor and softmax and _is(scale, "Mul", LOGITS, FACTOR) and _is(softmax, "Softmax", SCALED):
        graph.node.remove(scale)
        graph.initializer.remove(factor)
        softmax.input[0] = LOGITS
    if softmax is None or not _is(softmax, "Softmax", LOGITS) or any(SCALED in node.input for node in graph.node):
        raise ModelError(f"{name}: the graph does not compute softmax(logits / temperature); export the model again")
    if temperature != 1:
        graph.initializer.append(numpy_helper.from_array(np.array(1 / temperature, np.float32), FACTOR))
        graph.node.insert(list(graph.node).index(softmax), helper.make_node("Mul", [LOGITS, FACTOR], [SCALED], SCALED))
        softmax.input[0] = SCALED


def _is(node: onnx.NodeProto, operator: str, *inputs: str) -> bool:
    return node.op_type == operator and tuple(node.input) == inputs


def with_confidence(model: Model, confidence: Confidence) -> Model:
    """Return the model with another temperature, in its graph and in its card. The other metadata stay as they are."""
    proto = onnx.load_model_from_string(model.content)
    set_confidence(proto, model.card, confidence, name=model.name)
    return onnx_file.check(proto.SerializeToString(deterministic=True), model.name)


def set_confidence(proto: onnx.ModelProto, card: ModelCard, confidence: Confidence, *, name: str) -> str:
    """Set the temperature of the graph and of the card, and return the JSON of the card."""
    set_temperature(proto, confidence.temperature, name=name)
    text = replace(card, confidence=confidence).to_json()
    set_metadata(proto, METADATA_KEY, text)
    return text


def set_metadata(proto: onnx.ModelProto, key: str, value: str) -> None:
    """Set an entry of the metadata of the model."""
    entry = next((entry for entry in proto.metadata_props if entry.key == key), None) or proto.metadata_props.add()
    entry.key, entry.value = key, value
