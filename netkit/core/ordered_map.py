"""Concurrent map with results in input order and a bounded number of calls in flight."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, window: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, computed by `executor`, in input order.

    At most `window` calls are submitted whose results the caller has not taken. Items are pulled only as calls are
    submitted, so `items` may be endless. An exception that a call raises reaches the caller in place of its result and
    ends the iteration.

    The iteration shuts `executor` down when it ends, early or not; calls that have not started are cancelled.

    Raises ValueError if `window` is less than 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    remaining = iter(items)
    pending: deque[Future[Result]] = deque()
    try:
        pending.extend(executor.submit(function, item) for item in islice(remaining, window))
        while pending:
            result = pending.popleft().result()
            pending.extend(executor.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        executor.shutdown(cancel_futures=True)
