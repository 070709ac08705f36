"""The model card: the JSON round trip, and the error message for each invalid card."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.core.errors import CardError
from netkit.core.model_card import ModelCard


@pytest.mark.parametrize("resize", [None, 32])
def test_a_json_round_trip_preserves_the_card(card: ModelCard, resize: int | None) -> None:
    card = replace(card, resize=resize)
    assert ModelCard.from_json(card.to_json()) == card


def test_a_round_trip_preserves_every_byte_of_the_json() -> None:
    text = (
        '{"version": 2, "input": {"channels": 3, "height": 28, "width": 30, "resize": null, "draft": true}, '
        '"arch": "residual", '
        '"labels": ["cat", "\\u00e9"], "mean": [0.5, 0.25, 0.1], "std": [1.0, 2.0, 0.3], "origin": {"data": "digits", '
        '"data_sha256": "0", "recipe": {"name": "fast", "epochs": 2.5, "batch_size": 64, "nesterov": true}, "seed": 0, '
        '"test_accuracy": 0.5, "netkit": "0.1.0", "torch": "2.9", "val_split": 0.1, "validated_on_test": true, '
        '"data_options": {"layout": "classes"}, "max_bytes": 1000, "max_pixels": 2000}, '
        '"confidence": {"temperature": 0.5, "images": 100}}'
    )
    assert ModelCard.from_json(text).to_json() == text


def test_json_contains_the_version_and_the_input_as_one_object(card: ModelCard) -> None:
    fields = json.loads(card.to_json())
    assert fields["version"] == 2
    assert fields["input"] == {"channels": 1, "height": 28, "width": 28, "resize": None, "draft": False}
    assert fields["labels"] == list("0123456789")


def test_a_card_of_an_earlier_version_lacks_the_fields_on_how_its_data_were_read(card: ModelCard) -> None:
    fields = json.loads(card.to_json())
    del fields["origin"]["validated_on_test"], fields["origin"]["data_options"]
    assert ModelCard.from_json(json.dumps(fields)) == card


def test_a_card_of_an_earlier_version_has_the_temperature_1(card: ModelCard) -> None:
    fields = json.loads(card.to_json())
    del fields["confidence"]
    assert ModelCard.from_json(json.dumps(fields)) == card and card.confidence.temperature == 1


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.0), ("temperature", -1.0), ("images", -1)])
def test_an_invalid_confidence_is_refused(card: ModelCard, field: str, value: float) -> None:
    with pytest.raises(CardError, match=r"(temperature|number of images) must be .*, not"):
        ModelCard.from_json(changed(card, f"confidence.{field}", value))


def test_a_card_of_version_0_1_decodes_in_full_with_the_limits_of_that_version(card: ModelCard) -> None:
    fields = json.loads(card.to_json())
    del fields["input"]["draft"], fields["origin"]["max_bytes"], fields["origin"]["max_pixels"]
    earlier = ModelCard.from_json(json.dumps(fields))
    assert earlier.input.draft is False
    assert (earlier.origin.max_bytes, earlier.origin.max_pixels) == (64 * 2**20, 24_000_000)


def changed(card: ModelCard, path: str, value: Any) -> str:
    """Return the card's JSON with the field at `path` (a.b) replaced, or removed if `value` is `...`."""
    fields = json.loads(card.to_json())
    *parents, name = path.split(".")
    target = fields
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    return json.dumps(fields)


FIELDS = [
    "version", "arch", "labels", "input", "input.channels", "input.height", "input.width", "mean", "std", "origin",
    "origin.data", "origin.data_sha256", "origin.recipe", "origin.seed", "origin.test_accuracy", "origin.netkit",
    "origin.torch",
]  # fmt: skip


@pytest.mark.parametrize("path", FIELDS)
def test_the_error_names_a_missing_field(card: ModelCard, path: str) -> None:
    with pytest.raises(CardError, match=f"the model card lacks '{path}'"):
        ModelCard.from_json(changed(card, path, ...))


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.parametrize("value", [None, True])
def test_the_error_names_a_field_of_the_wrong_type(card: ModelCard, path: str, value: object) -> None:
    with pytest.raises(CardError, match=f"the model card(: '{path}' is| has format version) {value}"):
        ModelCard.from_json(changed(card, path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 1, "has format version 1; this netkit reads version 2"),
        ("input.channels", 2, "1 or 3 channels, not 2"),
        ("input.height", 0, "image sides must be 1 to 4096 pixels, not 0x28"),
        ("input.width", 10**9, "image sides must be 1 to 4096 pixels, not 28x1000000000"),
        ("input.resize", 27, "resize must be 28 to 4096 pixels for a crop of 28x28, not 27"),
        ("input.resize", 4097, "for a crop of 28x28, not 4097"),
        ("input.resize", True, "'input.resize' is True, not of type int | None"),
        ("input.resize", ..., "lacks 'input.resize'"),
        ("origin.val_split", 1.0, "val_split must be above 0 and below 1, not 1.0"),
        ("labels", ["a"], "at least two labels, all different"),
        ("labels", ["a", "b", "a"], "at least two labels, all different"),
        ("labels", ["a", 1], "'labels[1]' is 1, not of type str"),
        ("labels", ["a", ""], "labels must be valid Unicode text and not empty"),
        ("labels", ["a", "b\ud800"], "labels must be valid Unicode text and not empty"),
        ("labels", "0123456789", "'labels' is '0123456789', not of type list"),
        ("mean", [0.1, 0.2], "mean and std must have one number per channel"),
        ("std", [0], "std must be positive"),
        ("std", [-0.5], "std must be positive"),
        ("mean", [float("nan")], "'mean[0]' is nan, not a finite float"),
        ("std", [float("inf")], "'std[0]' is inf, not a finite float"),
        ("mean", [10**400], "'mean[0]' is 1000"),
    ],
)
def test_invalid_values_are_rejected(card: ModelCard, path: str, value: object, message: str) -> None:
    with pytest.raises(CardError, match=re.escape(message)):
        ModelCard.from_json(changed(card, path, value))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"version": 1', "nul", "\x00"])
def test_text_that_is_not_json_is_rejected(text: str) -> None:
    with pytest.raises(CardError, match="the model card is not JSON"):
        ModelCard.from_json(text)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=5))
def test_any_json_that_is_not_a_card_is_rejected(value: object) -> None:
    with pytest.raises(CardError):
        ModelCard.from_json(json.dumps(value))


def test_a_card_is_also_checked_when_it_is_built_in_memory(card: ModelCard) -> None:
    with pytest.raises(CardError, match="1 or 3 channels, not 4"):
        replace(card, channels=4)
