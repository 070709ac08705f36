"""Wait for a condition that another process fulfills."""

import time
from collections.abc import Callable

HANG_S = 600  # a longer wait means a hang, even on a slow machine


def wait_until(condition: Callable[[], object], *, every_s: float = 0.02) -> None:
    """Return when `condition()` is true. Raises TimeoutError if it stays false for HANG_S seconds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > HANG_S:
            raise TimeoutError(f"the condition is still false after {HANG_S} s")
        time.sleep(every_s)
