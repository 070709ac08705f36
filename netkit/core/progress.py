"""How libraries report progress: by a callback, so that they print nothing themselves."""

from collections.abc import Callable

Advance = Callable[[int, str], None]  # number of items done since the last call; a note to show beside the bar
Progress = Callable[[int, int | None, str], None]  # items done so far; the total, None where unknown; a note


def no_progress(items: int, note: str) -> None:
    """An `Advance` that shows nothing."""


def counted(progress: Progress | None, total: int | None) -> Advance:
    """An `Advance` that reports to `progress` how many items of `total` are done so far."""
    if progress is None:
        return no_progress
    report, done = progress, 0

    def advance(items: int, note: str) -> None:
        nonlocal done
        done += items
        report(done, total, note)

    return advance
