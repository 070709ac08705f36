"""Progress bar for terminals and notebooks. The only module outside netkit.cli that imports rich."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from netkit.core.progress import Progress

ONE_LINE = Column(no_wrap=True)  # a narrow terminal shortens the bar, not the text


class _Speed(rich_progress.ProgressColumn):
    def render(self, task: rich_progress.Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


@contextmanager
def progress_bar(description: str, *, console: Console | None = None, show: bool = True) -> Iterator[Progress]:
    """Show a bar with count, images per second and remaining time, from the first report to the end of the block.

    The bar is shown only on a terminal (stderr, unless `console` is given) and in a notebook.
    """
    # with FORCE_COLOR, rich would write a moving bar to a log file
    console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False, table_column=ONE_LINE),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(table_column=ONE_LINE),
        _Speed(ONE_LINE),
        rich_progress.TimeRemainingColumn(table_column=ONE_LINE),
        rich_progress.TextColumn("{task.fields[note]}", markup=False, table_column=ONE_LINE),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not (show and console.is_terminal),
    )
    task = bar.add_task(description, total=None, note="")

    def report(done: int, total: int | None, note: str) -> None:
        bar.update(task, completed=done, total=total, note=note)
        bar.start()  # has no effect after the first call

    try:
        yield report
    finally:
        bar.stop()


def reporting(progress: bool | Progress, description: str) -> AbstractContextManager[Progress | None]:
    """Turn the argument `progress` of a public function into a progress bar, the caller's callback, or None."""
    return progress_bar(description) if progress is True else nullcontext(progress or None)
