"""Terminal output: messages on stderr, results and tables on stdout.

Styles, colors and bars appear only on a terminal, whatever FORCE_COLOR says, so that programs can read the output.
NO_COLOR turns colors off there.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, JustifyMethod
from rich.table import Table

if TYPE_CHECKING:
    from netkit.infer.check import Check

NUMBER = re.compile(r"[-+\d.,%]+")  # also a percentage, or "-" for no value


class Terminal(Console):
    """A console on stderr that prints text verbatim, without wrapping, highlighting or markup."""

    def __init__(self, *, quiet: bool = False) -> None:
        # with FORCE_COLOR, rich assumes a terminal and would write a moving bar to a log file
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
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        self.terminal.print(prefix + record.getMessage())


def open_terminal(*, quiet: bool = False) -> Terminal:
    """Create a Terminal that also prints the log messages of netkit at level INFO and above."""
    terminal = Terminal(quiet=quiet)
    logger = logging.getLogger("netkit")
    logger.handlers = [_Handler(terminal)]
    logger.setLevel(logging.INFO)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns at length of a home folder that is not writable
    return terminal


def print_json(fields: Mapping[str, Any]) -> None:
    """Print a JSON object as one line on stdout."""
    click.echo(json.dumps(fields))


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with the same keys as a table on stdout.

    Columns of numbers are right-aligned. On a narrow terminal, a long text continues on the next line.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [[_cell(value) for value in row.values()] for row in rows]
    for name, column in zip(rows[0], zip(*cells, strict=True), strict=True):
        numeric = all(map(NUMBER.fullmatch, column))
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(name.replace("_", " "), justify=justify, no_wrap=numeric, overflow="fold")
    for row_cells in cells:
        table.add_row(*row_cells)
    terminal = sys.stdout.isatty()
    width = None if terminal else 10_000  # do not truncate lines on a pipe
    Console(highlight=False, markup=False, emoji=False, width=width, force_terminal=terminal).print(table)


def print_checks(checks: Sequence["Check"], *, as_json: bool) -> None:
    """Print checks on stdout as a table or as JSON lines; with a table, print on stderr how to fix failed checks."""
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
    if isinstance(value, float):
        return f"{value:.3f}"
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
