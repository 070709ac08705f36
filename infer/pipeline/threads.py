"""Worker threads: map a function over tasks, in order, with a bounded number in flight."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from netkit.core.ordered_map import ordered_map

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_PER_WORKER = 2  # in flight: one runs, the next one waits


def map_in_threads(function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int) -> Generator[Result]:
    """Yield `function(task)` for each task, in order. With one worker, the calling thread runs all tasks."""
    if workers == 1:
        yield from map(function, tasks)
        return
    pool = ThreadPoolExecutor(workers, "infer")
    yield from ordered_map(pool, function, tasks, window=TASKS_PER_WORKER * workers)
