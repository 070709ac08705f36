"""Graceful stop: the first SIGINT or SIGTERM takes effect at the end of the step, the second immediately."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def delayed_signals() -> Iterator[Callable[[], int | None]]:
    """Record the first signal inside the context. Yields a function that returns its number, or None."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier_handlers = {number: signal.getsignal(number) for number in numbers}
    received: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, record)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
