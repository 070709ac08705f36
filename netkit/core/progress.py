"""Progress callbacks. Library code reports progress through them and prints nothing."""

from collections.abc import Callable

Advance = Callable[[int, str], None]  # items done since the last call; a note to show next to the bar
Progress = Callable[[int, int | None, str], None]  # items done so far; the total, None if unknown; a note


def no_progress(items: int, note: str) -> None:
    """Ignore the progress. This function is an `Advance`."""


def cumulative(progress: Progress | None, total: int | None) -> Advance:
    """Return an `Advance` that reports to `progress` how many items of `total` are done so far."""
    if progress is None:
        return no_progress
    report, done = progress, 0

    def advance(items: int, note: str) -> None:
        nonlocal done
        done += items
        report(done, total, note)

    return advance
