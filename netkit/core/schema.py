"""Typed JSON: build dataclasses from JSON and check all types. Standard library only."""

import json
import math
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from netkit.core.errors import NetkitError

T = TypeVar("T")

ADDED_LATER = {"added later": True}  # metadata of a field that earlier versions do not write
EXACT_INT_LIMIT = 2**53  # float64 represents every smaller integer exactly


class _Mismatch(Exception):
    """The JSON does not match the annotations."""


def parse(text: str | bytes, *, subject: str, error: type[NetkitError], version: int | None = None) -> dict[str, Any]:
    """Return the JSON object in `text`. Its field `version` must equal `version`, unless that is None.

    Raises `error`, whose message begins with `subject`.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise error(f"{subject} is not JSON: {exc}") from None
    if not isinstance(values, dict):
        raise error(f"{subject} is {reprlib.repr(values)}, not a JSON object")
    if version is not None:
        if "version" not in values:
            raise error(f"{subject} lacks 'version'")
        if type(values["version"]) is not int or values["version"] != version:
            actual = reprlib.repr(values["version"])
            raise error(f"{subject} has format version {actual}; this netkit reads version {version}")
    return values


def load(
    cls: type[T], source: str | bytes | Mapping[str, Any], *, subject: str, error: type[NetkitError],
    version: int | None = None,
) -> T:  # fmt: skip
    """Build an instance of the dataclass `cls` from `source`: JSON text, or the object parsed from it.

    Annotations may use str, int, float, bool, None, Any, Literal, unions, tuple, Mapping[str, ...] and dataclasses.
    The JSON must contain every field, even one that has a default, unless its metadata is ADDED_LATER. Fields that
    `cls` does not have are ignored. Types must match exactly: True is not an int. An integer is accepted for a float if
    the float can represent it exactly. NaN and infinity are rejected. The first matching member of a union is used.

    Raises `error`, whose message begins with `subject`, and any exception that `cls` raises for invalid values.
    """
    values = source if isinstance(source, Mapping) else parse(source, subject=subject, error=error, version=version)
    try:
        instance: T = _dataclass(cls, values, "")
    except _Mismatch as exc:
        raise error(f"{subject}{exc}") from None
    return instance


def _dataclass(cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
    hints, arguments = get_type_hints(cls), {}
    for field in fields(cls):
        field_path = f"{path}.{field.name}" if path else field.name
        if field.name not in values:
            if field.metadata == ADDED_LATER:
                continue
            raise _Mismatch(f" lacks {field_path!r}")
        arguments[field.name] = _convert(hints[field.name], values[field.name], field_path)
    return cls(**arguments)


def _convert(kind: Any, value: Any, path: str) -> Any:
    """Convert `value` to the annotated type `kind`; `path` locates it in the document, e.g. "origin.seed"."""
    origin, parameters = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, _of_type(dict, value, path), path)
    if origin is tuple:
        return _tuple(parameters, _of_type(list, value, path), path)
    if origin is Mapping:
        items = _of_type(dict, value, path).items()
        return {key: _convert(parameters[1], item, f"{path}.{key}") for key, item in items}
    if origin in (Union, UnionType):
        for member in parameters:
            with suppress(_Mismatch):
                return _convert(member, value, path)
        raise _mismatch(path, value, f"of type {kind}")
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in parameters):
            raise _mismatch(path, value, f"one of {', '.join(map(repr, parameters))}")
        return value
    if kind is float:
        return _float(value, path)
    return _of_type(kind, value, path)


def _tuple(kinds: tuple[Any, ...], values: list[Any], path: str) -> tuple[Any, ...]:
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(values)
    if len(values) != len(kinds):
        raise _mismatch(path, values, f"a list of {len(kinds)}")
    pairs = zip(kinds, values, strict=True)
    return tuple(_convert(kind, value, f"{path}[{index}]") for index, (kind, value) in enumerate(pairs))


def _float(value: Any, path: str) -> float:
    if type(value) is int and abs(value) < EXACT_INT_LIMIT:
        value = float(value)
    if type(value) is not float or not math.isfinite(value):
        raise _mismatch(path, value, "a finite float")
    return value


def _of_type(kind: type[T], value: Any, path: str) -> T:
    if type(value) is not kind:  # not isinstance: True would pass as an int
        raise _mismatch(path, value, f"of type {kind.__name__}")
    return value


def _mismatch(path: str, value: Any, expected: str) -> _Mismatch:
    return _Mismatch(f": {path!r} is {reprlib.repr(value)}, not {expected}")
