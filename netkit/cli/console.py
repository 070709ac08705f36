"""What a person sees: messages and a progress bar on stderr, tables on stdout."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from netkit.core.progress import Advance


class Terminal(Console):
    """stderr, plain: paths in messages are neither coloured nor wrapped, and brackets in them are no markup."""

    def __init__(self, *, quiet: bool = False) -> None:
        # what is no terminal stays none for FORCE_COLOR's sake: that asks for colours, not for a moving bar in a log
        super().__init__(
            stderr=True,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
            force_terminal=sys.stderr.isatty(),
            quiet=quiet,
        )

    def show_log_of(self, *packages: str) -> None:
        """Print what these packages log from now on, at level INFO and above, as it stands."""
        handler = _Handler(self)
        for package in packages:
            logger = logging.getLogger(package)
            logger.handlers = [handler]
            logger.setLevel(logging.INFO)


class _Handler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self.terminal.print(record.getMessage())


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


@contextmanager
def progress(terminal: Terminal, what: str, *, total: int | None, show: bool = True) -> Iterator[Advance]:
    """A bar with count, images/s and the time left; nothing where stderr is no terminal."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=terminal,
        transient=True,
        redirect_stdout=False,
        disable=not (show and terminal.is_terminal),
    )
    with bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda images, note: bar.update(task, advance=images, note=note)


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows that share their keys as a table on stdout: numbers to the right, with thousands separated."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="right" if isinstance(value, int) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    width = None if sys.stdout.isatty() else 10_000  # a pipe has no edge to cut off at
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
