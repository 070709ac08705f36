"""The temperature in the graph: ONNX Runtime computes softmax(logits / temperature), and the logits do not change."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from netkit.core.errors import ModelError
from netkit.core.model_card import Confidence, ModelCard
from netkit.data.temperature import softmax
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.temperature import set_temperature, with_confidence
from netkit.infer.runtime.session import open_session
from tests.support.onnx_models import add_nodes, linear_model


@pytest.fixture
def proto(card: ModelCard) -> ModelProto:
    return linear_model(card)


def outputs(proto: ModelProto, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    images_u8 = np.random.default_rng(0).integers(0, 256, (5, card.channels, card.height, card.width), np.uint8)
    model = onnx_file.check(proto.SerializeToString(), "m.onnx")
    return open_session(model, device="cpu").run(images_u8)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.7, 20])
def test_onnx_runtime_divides_the_logits_by_the_temperature(
    proto: ModelProto, card: ModelCard, temperature: float
) -> None:
    logits, _ = outputs(proto, card)
    set_temperature(proto, temperature, name="m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    unchanged, probabilities = outputs(proto, card)
    assert (unchanged == logits).all()
    assert probabilities == pytest.approx(softmax(logits, temperature), abs=1e-6)


def test_a_temperature_replaces_an_earlier_one_and_1_restores_the_graph(proto: ModelProto) -> None:
    plain = proto.SerializeToString(deterministic=True)
    set_temperature(proto, 2, name="m.onnx")
    once = proto.SerializeToString(deterministic=True)
    set_temperature(proto, 0.3, name="m.onnx")
    set_temperature(proto, 2, name="m.onnx")
    assert proto.SerializeToString(deterministic=True) == once != plain
    set_temperature(proto, 1, name="m.onnx")
    assert proto.SerializeToString(deterministic=True) == plain


def sigmoid(proto: ModelProto) -> None:
    proto.graph.node[-1].op_type = "Sigmoid"


def renamed_factor(proto: ModelProto) -> None:
    proto.graph.initializer[-1].name = proto.graph.node[-2].input[1] = "other"


def second_use(proto: ModelProto) -> None:
    add_nodes(proto, "other = Relu (netkit_scaled_logits)")


@pytest.mark.parametrize("change", [sigmoid, renamed_factor, second_use])
def test_probabilities_that_are_computed_in_another_way_are_refused(
    proto: ModelProto, change: Callable[[ModelProto], None]
) -> None:
    set_temperature(proto, 0.5, name="m.onnx")
    change(proto)
    with pytest.raises(ModelError, match=r"m\.onnx: the graph does not compute softmax\(logits / temperature\)"):
        set_temperature(proto, 2, name="m.onnx")


def test_the_card_and_the_graph_get_the_same_temperature(model: Model) -> None:
    changed = with_confidence(model, Confidence(0.5, 200))
    assert changed.card.confidence == Confidence(0.5, 200)
    images_u8 = np.zeros((1, 1, 28, 28), np.uint8)
    logits, probabilities = open_session(changed, device="cpu").run(images_u8)
    assert probabilities == pytest.approx(softmax(logits, 0.5), abs=1e-6)
    assert with_confidence(changed, model.card.confidence).graph_sha256 == model.graph_sha256
