"""Stopping with care: the first SIGINT or SIGTERM is noted, so that the step can end; the second stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted() -> Iterator[Callable[[], int | None]]:
    """Inside, signals are only noted: the function tells the number of the one that came, or None."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        restore()
