"""The model card: what it says survives as JSON, and a damaged or impossible card names its fault."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from nets.card import ModelCard
from nets.errors import CardError

FIELDS = {
    "": {"version": int, "arch": str, "labels": list, "input": dict, "mean": list, "std": list, "origin": dict},
    "input": {"channels": int, "height": int, "width": int},
    "origin": {
        "data": str,
        "data_sha256": str,
        "recipe": dict,
        "seed": int,
        "test_accuracy": float,
        "netkit": str,
        "torch": str,
    },
}
PLACES = [(part, field, kind) for part, fields in FIELDS.items() for field, kind in fields.items()]
WRONG: list[Any] = [None, True, "28", 1.5, 28, [], ["0", 1], {}]


def changed(card: ModelCard, part: str, **values: Any) -> str:
    """The card's JSON with those values in its object `part` ("": the outermost)."""
    fields = json.loads(card.to_json())
    (fields[part] if part else fields).update(values)
    return json.dumps(fields)


def test_card_survives_the_round_trip_through_json(card: ModelCard) -> None:
    colour = replace(card, channels=3, height=20, width=36, mean=(0.1, 0.0, -1.0), std=(0.3, 1e-3, 2.0))
    named = replace(card, labels=("Größe", "a\nb", '"', "猫"))
    for each in (card, colour, named):
        assert ModelCard.from_json(each.to_json()) == each


def test_cards_json_is_laid_out_as_other_programs_read_it(card: ModelCard) -> None:
    assert json.loads(card.to_json()) == {
        "version": 1,
        "arch": "residual",
        "labels": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        "input": {"channels": 1, "height": 28, "width": 28},
        "mean": [0.1307],
        "std": [0.3081],
        "origin": {
            "data": "digits",
            "data_sha256": "0" * 64,
            "recipe": {"name": "fast", "epochs": 1, "lr": 0.1},
            "seed": 0,
            "test_accuracy": 0.5,
            "netkit": "0.1.0",
            "torch": "2.14.1",
        },
    }


def test_card_cannot_be_changed(card: ModelCard) -> None:
    with pytest.raises(FrozenInstanceError):
        card.arch = "inception"  # type: ignore[misc]  # what is tested


def test_whole_numbers_are_read_as_floats_where_floats_are_wanted(card: ModelCard) -> None:
    read = ModelCard.from_json(changed(card, "", mean=[0], std=[1]))
    assert read == replace(card, mean=(0.0,), std=(1.0,))
    assert [type(value) for value in read.mean + read.std] == [float, float]


@pytest.mark.parametrize(("part", "field", "kind"), PLACES)
def test_every_missing_field_is_named(card: ModelCard, part: str, field: str, kind: type) -> None:
    fields = json.loads(card.to_json())
    del (fields[part] if part else fields)[field]
    with pytest.raises(CardError, match=f"^the model card lacks '{field}'$"):
        ModelCard.from_json(json.dumps(fields))


@pytest.mark.parametrize(("part", "field", "kind"), PLACES)
def test_every_field_of_the_wrong_type_is_named(card: ModelCard, part: str, field: str, kind: type) -> None:
    fitting = (int, float) if kind is float else (kind,)
    for value in (wrong for wrong in WRONG if type(wrong) not in fitting):
        with pytest.raises(CardError, match=f"'{field}' holds .* not a value of type {kind.__name__}"):
            ModelCard.from_json(changed(card, part, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [("labels", ["a", 1], "str"), ("labels", ["a", None], "str"), ("mean", ["0"], "float"), ("std", [True], "float")],
)
def test_a_list_with_one_wrong_entry_is_named(card: ModelCard, field: str, value: list[Any], kind: str) -> None:
    with pytest.raises(CardError, match=f"'{field}' holds .* not a value of type {kind}"):
        ModelCard.from_json(changed(card, "", **{field: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2, "mean": (0.0, 0.0), "std": (1.0, 1.0)}, "1 or 3 channels, not 2"),
        ({"channels": 0, "mean": (), "std": ()}, "1 or 3 channels, not 0"),
        ({"height": 0}, "sides of 1 to 4096 pixels, not 0x28"),
        ({"width": -28}, "sides of 1 to 4096 pixels, not 28x-28"),
        ({"height": 4097}, "sides of 1 to 4096 pixels, not 4097x28"),
        ({"labels": ()}, "two or more different names"),
        ({"labels": ("0",)}, "two or more different names"),
        ({"labels": ("0", "1", "0")}, "two or more different names"),
        ({"mean": (0.1, 0.1)}, "one mean and std a channel"),
        ({"std": ()}, "one mean and std a channel"),
        ({"mean": (float("inf"),)}, "mean is finite and its std above 0"),
        ({"mean": (float("nan"),)}, "mean is finite and its std above 0"),
        ({"std": (0.0,)}, "mean is finite and its std above 0"),
        ({"std": (-0.3,)}, "mean is finite and its std above 0"),
        ({"std": (float("nan"),)}, "mean is finite and its std above 0"),
        ({"std": (float("inf"),)}, "mean is finite and its std above 0"),
    ],
)
def test_impossible_values_are_refused(card: ModelCard, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CardError, match=message):
        replace(card, **changes)
    shape = {name: value for name, value in changes.items() if name in FIELDS["input"]}
    rest = {name: value for name, value in changes.items() if name not in shape}
    fields = json.loads(changed(card, "input", **shape))
    with pytest.raises(CardError, match=message):
        ModelCard.from_json(json.dumps({**fields, **rest}))


@pytest.mark.parametrize("text", ["", "card", "{", '{"version": 1', "\x80PK", "[" * 100_000, '{"a":' * 100_000])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(CardError, match="the model card is not JSON"):
        ModelCard.from_json(text)


@pytest.mark.parametrize("text", ["null", "[]", "1", '"version"', "{}"])
def test_json_that_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(CardError, match="the model card lacks 'version'"):
        ModelCard.from_json(text)


@pytest.mark.parametrize("version", [0, 2, -1])
def test_another_version_is_refused_by_its_number(card: ModelCard, version: int) -> None:
    with pytest.raises(CardError, match=f"has version {version}; this netkit reads version 1"):
        ModelCard.from_json(changed(card, "", version=version))


def test_a_long_wrong_value_is_cut_short_in_the_message(card: ModelCard) -> None:
    with pytest.raises(CardError) as caught:
        ModelCard.from_json(changed(card, "", arch=["long"] * 10_000))
    assert len(str(caught.value)) < 200
