"""What a person sees: messages on stderr, results and tables on stdout."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from netkit.infer.check import Check


class Terminal(Console):
    """stderr without markup: paths in messages are not coloured or wrapped, and brackets in them are printed."""

    def __init__(self, *, quiet: bool = False) -> None:
        # FORCE_COLOR asks for colours: it must not make a moving bar appear in a log file
        super().__init__(
            stderr=True,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
            force_terminal=sys.stderr.isatty(),
            quiet=quiet,
        )


class _Handler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self.terminal.print(record.getMessage())


def open_terminal(*, quiet: bool = False) -> Terminal:
    """A Terminal that from now on also prints what netkit logs at level INFO and above."""
    terminal = Terminal(quiet=quiet)
    logger = logging.getLogger("netkit")
    logger.handlers = [_Handler(terminal)]
    logger.setLevel(logging.INFO)
    return terminal


def print_json(fields: Mapping[str, Any]) -> None:
    """Print one JSON object as a line on stdout."""
    click.echo(json.dumps(fields))


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with the same keys as a table on stdout: numbers to the right, with separated thousands."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="right" if isinstance(value, int) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    width = None if sys.stdout.isatty() else 10_000  # a pipe has no edge to cut off at
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def print_checks(checks: Sequence["Check"], *, as_json: bool) -> None:
    """Print checks as a table or as JSON lines, and on stderr how to fix those that failed."""
    if as_json:
        for check in checks:
            print_json({"check": check.name, "ok": check.ok, "detail": check.detail, "fix": check.fix})
        return
    print_table([{"check": c.name, "status": "ok" if c.ok else "FAILED", "detail": c.detail} for c in checks])
    for check in checks:
        if check.fix:
            click.echo(f"{check.name}: {check.fix}", err=True)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
