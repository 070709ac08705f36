"""Team: threads that work beside the one that gives them work, which lends a hand where it would only wait."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
T = TypeVar("T")


AHEAD = 2  # items for each worker: the one at work, and the next, so that none waits


def fulfil(result: Future[T], work: Callable[[], T]) -> None:
    """Do the work here: the future's result is what comes of it, or its exception what is raised."""
    try:
        result.set_result(work())
    except Exception as fault:
        result.set_exception(fault)


class _Task(Generic[T]):
    def __init__(self, work: Callable[[], T], pool: ThreadPoolExecutor | None) -> None:
        self._work = work
        self.result: Future[T] = pool.submit(work) if pool else Future()

    def do_here(self) -> bool:
        """Do it in this thread, unless another has begun it."""
        if not self.result.cancel():
            return False
        self.result = Future()
        fulfil(self.result, self._work)
        return True


class Team(Generic[Item, T]):
    """`size` threads, of which this one, who gives the work, is one; each does `work` on an item.

    Leaving the context drops what none has begun.
    """

    def __init__(self, size: int, work: Callable[[Item], T]) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(size - 1, "infer") if size > 1 else None
        self._tasks: deque[_Task[T]] = deque()

    def __enter__(self) -> "Team[Item, T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """How many results are still to be taken."""
        return len(self._tasks)

    def give(self, item: Item) -> None:
        """Work for whoever is free next."""
        self._tasks.append(_Task(partial(self._work, item), self._pool))

    def take(self) -> T:
        """The result of the work that was given first. Until it is there, this thread does what none has begun."""
        first = self._tasks[0]
        while not first.result.done() and any(task.do_here() for task in self._tasks):
            pass
        return self._tasks.popleft().result.result()
