"""Fields: JSON that came in a file, read by name and type, so that a wrong one is named. Standard library only."""

import json
import math
from typing import TypeVar

from netkit.core.errors import NetkitError

T = TypeVar("T")


class Fields:
    """A JSON object. `what` it is, for messages; all of them are raised as `error`."""

    def __init__(self, values: object, what: str, error: type[NetkitError]) -> None:
        self._values, self._what, self._error = values, what, error

    @classmethod
    def parse(cls, text: str, what: str, error: type[NetkitError]) -> "Fields":
        try:
            return cls(json.loads(text), what, error)
        except (ValueError, RecursionError) as fault:
            raise error(f"{what} is not JSON: {fault}") from None

    def require(self, version: int) -> None:
        """Raise where the object is of another version of its form than `version`."""
        found = self.one("version", int)
        if found != version:
            raise self._error(f"{self._what} has version {found}; this netkit reads version {version}")

    def one(self, name: str, kind: type[T]) -> T:
        """The value called `name`, of exactly that type."""
        if not isinstance(self._values, dict) or name not in self._values:
            raise self._error(f"{self._what} lacks {name!r}")
        return self._as(self._values[name], name, kind)

    def maybe(self, name: str, kind: type[T]) -> T | None:
        """The value called `name`, which may be null."""
        missing = isinstance(self._values, dict) and name in self._values and self._values[name] is None
        return None if missing else self.one(name, kind)

    def each(self, name: str, kind: type[T]) -> tuple[T, ...]:
        """The values in the list called `name`, each of exactly that type."""
        return tuple(self._as(value, name, kind) for value in self.one(name, list))

    def mapping(self, name: str, kind: type[T]) -> dict[str, T]:
        """The object called `name`, whose values are each of exactly that type."""
        return {key: self._as(value, name, kind) for key, value in self.one(name, dict).items()}

    def part(self, name: str) -> "Fields":
        """The object called `name`."""
        return Fields(self.one(name, dict), self._what, self._error)

    def parts(self, name: str) -> "tuple[Fields, ...]":
        """The objects in the list called `name`."""
        return tuple(Fields(value, self._what, self._error) for value in self.each(name, dict))

    def _as(self, value: object, name: str, kind: type[T]) -> T:
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(f"{self._what}'s {name!r} holds {value!r}, which is no number")
        if type(value) is not kind:  # not isinstance: True is no number of channels
            raise self._error(f"{self._what}'s {name!r} holds {value!r:.80}, not a value of type {kind.__name__}")
        return value
