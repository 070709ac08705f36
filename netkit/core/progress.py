"""How libraries report progress: by a callback, so that they print nothing themselves."""

from collections.abc import Callable

Advance = Callable[[int, str], None]  # number of items done since the last call; a note to show beside the bar


def no_progress(items: int, note: str) -> None:
    """An `Advance` that shows nothing."""
