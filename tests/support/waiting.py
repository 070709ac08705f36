"""Waiting for what another process does."""

import time
from collections.abc import Callable

HANG_S = 600  # no machine is this slow: a wait that takes longer never ends


def wait_until(condition: Callable[[], object], *, every_s: float = 0.02) -> None:
    """Return when `condition()` is true. Raises TimeoutError when it stays false for HANG_S."""
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > HANG_S:
            raise TimeoutError(f"the condition is still false after {HANG_S} s")
        time.sleep(every_s)
