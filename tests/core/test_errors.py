"""The exception tree matches its documentation, and names and messages are printed safely."""

import re

import pytest

from netkit.core import errors
from netkit.core.errors import NetkitError, one_line, unknown_name


def documented_tree() -> dict[str, tuple[str | None, int]]:
    """Return name -> parent and exit code, parsed from the module's docstring."""
    tree: dict[str, tuple[str | None, int]] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)(\w+)\s+([\d-])  ", line)
        if match:
            depth = len(match[1]) // 4
            ancestors[depth:] = [match[2]]
            tree[match[2]] = (ancestors[depth - 1] if depth else None, 1 if match[3] == "-" else int(match[3]))
    return tree


def test_the_docstring_lists_every_exception_with_its_parent_and_exit_code() -> None:
    actual: dict[str, tuple[str | None, int]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, NetkitError):
            parent = kind.__bases__[0].__name__ if kind is not NetkitError else None
            actual[name] = (parent, kind.exit_code)
    assert documented_tree() == actual


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("incepton", "did you mean 'inception'? "),
        ("RESIDUAL", "did you mean 'residual'? "),
        ("Res", "did you mean 'residual'? "),
        ("zzz", ""),
        ("ion", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_suggests_the_closest_known_name(name: str, hint: str) -> None:
    exc = unknown_name("architecture", name, ["inception", "residual"])
    assert str(exc) == f"unknown architecture {name!r}: {hint}known: inception, residual"


def test_one_line_escapes_control_characters() -> None:
    assert one_line("a\nb\x1b[31m\x9b1m é😀\udcff") == r"a\nb\x1b[31m\x9b1m é😀\udcff"
