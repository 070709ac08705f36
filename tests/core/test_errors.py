"""The tree of errors: as it is drawn, so it is."""

import re

import pytest

from netkit.core import errors
from netkit.core.errors import NetkitError, one_line, unknown_name


def drawn() -> dict[str, tuple[str | None, int]]:
    """Name -> parent and exit code, read off the drawing in the module's docstring."""
    tree: dict[str, tuple[str | None, int]] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)(\w+)\s+([\d-])  ", line)
        if match:
            depth = len(match[1]) // 4
            ancestors[depth:] = [match[2]]
            tree[match[2]] = (ancestors[depth - 1] if depth else None, 1 if match[3] == "-" else int(match[3]))
    return tree


def test_the_drawing_shows_every_error_with_its_parent_and_exit_code() -> None:
    real: dict[str, tuple[str | None, int]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, NetkitError):
            parent = kind.__bases__[0].__name__ if kind is not NetkitError else None
            real[name] = (parent, kind.exit_code)
    assert drawn() == real


@pytest.mark.parametrize(
    ("name", "hint"),
    [("incepton", "did you mean 'inception'? "), ("RESIDUAL", "did you mean 'residual'? "), ("zzz", "")],
)
def test_an_unknown_name_is_answered_with_the_closest(name: str, hint: str) -> None:
    fault = unknown_name("architecture", name, ["inception", "residual"])
    assert str(fault) == f"unknown architecture {name!r}: {hint}known: inception, residual"


def test_one_line_spells_out_what_would_move_the_cursor() -> None:
    assert one_line("a\nb\x1b[31m\x9b1m é😀\udcff") == r"a\nb\x1b[31m\x9b1m é😀\udcff"
