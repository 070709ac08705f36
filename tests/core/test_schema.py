"""Dataclasses are built from JSON, and the message for a wrong field names its location and value."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.core import schema
from netkit.core.errors import DataError


@dataclass(frozen=True)
class Inner:
    size: int
    scale: float | None


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    kind: Literal["a", "b"]
    pair: tuple[int, float]
    parts: tuple[Inner, ...]
    table: Mapping[str, str | int | float]
    anything: Any
    note: str | None = None


VALID: dict[str, Any] = {
    "name": "x", "flag": True, "kind": "b", "pair": [1, 2], "parts": [{"size": 3, "scale": None}],
    "table": {"a": 1, "b": 1.0, "c": "1"}, "anything": [{}], "note": None,
}  # fmt: skip


def load(values: Any) -> Outer:
    return schema.load(Outer, json.dumps(values), subject="the file", error=DataError)


def test_fields_have_the_types_of_their_annotations() -> None:
    outer = load(VALID)
    assert outer == Outer("x", True, "b", (1, 2.0), (Inner(3, None),), {"a": 1, "b": 1.0, "c": "1"}, [{}])
    assert [type(number) for number in outer.pair] == [int, float]
    assert [type(item) for item in outer.table.values()] == [int, float, str]


def test_parsed_json_is_loaded_like_text_and_unknown_fields_are_ignored() -> None:
    values = {**VALID, "more": 1}
    assert schema.load(Outer, values, subject="the file", error=DataError) == load(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "the file: 'name' is 1, not of type str"),
        ({"flag": 1}, "the file: 'flag' is 1, not of type bool"),
        ({"kind": "c"}, "the file: 'kind' is 'c', not one of 'a', 'b'"),
        ({"kind": ["a"]}, "the file: 'kind' is ['a'], not one of 'a', 'b'"),
        ({"pair": [1]}, "the file: 'pair' is [1], not a list of 2"),
        ({"pair": [True, 1]}, "the file: 'pair[0]' is True, not of type int"),
        ({"pair": [1.0, 1]}, "the file: 'pair[0]' is 1.0, not of type int"),
        ({"pair": [1, 2**53]}, "the file: 'pair[1]' is 9007199254740992, not a finite float"),
        ({"pair": [1, float("nan")]}, "the file: 'pair[1]' is nan, not a finite float"),
        ({"pair": {"0": 1, "1": 1}}, "the file: 'pair' is {'0': 1, '1': 1}, not of type list"),
        ({"parts": [{"size": 1, "scale": None}, 2]}, "the file: 'parts[1]' is 2, not of type dict"),
        ({"parts": [{"size": 1}]}, "the file lacks 'parts[0].scale'"),
        ({"parts": [{"size": 1, "scale": "1"}]}, "the file: 'parts[0].scale' is '1', not of type float | None"),
        ({"table": {"a": None}}, "the file: 'table.a' is None, not of type str | int | float"),
        ({"note": 1}, "the file: 'note' is 1, not of type str | None"),
        ({"name": list(range(1000))}, "the file: 'name' is [0, 1, 2, 3, 4, 5, ...], not of type str"),
    ],
)
def test_the_message_for_a_wrong_value_names_its_location(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load({**VALID, **change})


@pytest.mark.parametrize("name", VALID)
def test_the_error_names_a_missing_field_even_if_it_has_a_default(name: str) -> None:
    with pytest.raises(DataError, match=f"^the file lacks '{name}'$"):
        load({key: value for key, value in VALID.items() if key != name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file is not JSON: "),
        (b"\xff\xff", "the file is not JSON: "),
        ("1" * 5000, "the file is not JSON: "),
        ("[1]", r"the file is \[1\], not a JSON object$"),
        ("{}", "the file lacks 'version'$"),
        ('{"version": 2}', "the file has format version 2; this netkit reads version 1$"),
        ('{"version": true}', "the file has format version True; this netkit reads version 1$"),
    ],
)
def test_text_that_is_not_json_and_other_versions_are_rejected(text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        schema.parse(text, subject="the file", error=DataError, version=1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["size", "scale"]) | st.text(), inner),
        max_leaves=8,
    ),
    st.sampled_from(sorted(VALID)),
)
def test_any_json_is_loaded_or_rejected(value: object, name: str) -> None:
    for values in (value, {**VALID, name: value}):
        try:
            assert isinstance(load(values), Outer)
        except DataError as exc:
            assert str(exc).startswith("the file")
