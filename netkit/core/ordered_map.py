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

    At most `window` submitted calls have results that the caller has not taken. Items are pulled only when a call is
    submitted, so `items` may be infinite. An exception in a call is raised in place of its result and ends the
    iteration.

    When the iteration ends, early or not, `executor` is shut down and calls that have not started are canceled.

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
