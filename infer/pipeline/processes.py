"""Worker processes: map a function over tasks in forks of this process. Linux only."""

import ctypes
import logging
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import wait
from threading import Thread
from typing import Any, TypeVar

from netkit.core.errors import ModelError, first_line
from netkit.core.ordered_map import ordered_map
from netkit.infer.pipeline.threads import TASKS_PER_WORKER, map_in_threads

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_RESTARTS = 3  # of the worker processes, without a result in between
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if os.name == "posix" else ()
PR_SET_PDEATHSIG = 1  # see prctl(2)


def map_in_processes(function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int) -> Generator[Result]:
    """Yield `function(task)` for each task, in order, computed by forks of this process.

    Forks inherit `function`; tasks and results are pickled. An exception in a worker is raised in the caller. If a
    worker is killed, new workers run its tasks again. If no process can be forked, threads are used. Closing the
    generator early kills the workers.

    Raises ModelError if workers are killed more than MAX_RESTARTS times without a result in between.
    """
    unfinished: deque[Task] = deque()
    remaining = iter(tasks)
    restarts = 0
    while restarts <= MAX_RESTARTS:
        todo = chain(tuple(unfinished), remaining)
        unfinished.clear()
        try:
            pool = _WorkerPool(function, workers)
        except (OSError, NotImplementedError) as exc:  # NotImplementedError: the system has no semaphores
            logger.info("using threads instead of processes: %s", first_line(exc))
            yield from map_in_threads(function, todo, workers=workers)
            return
        window = TASKS_PER_WORKER * workers
        try:
            with closing(ordered_map(pool, _call, _record(todo, unfinished), window=window)) as results:
                for result in results:
                    unfinished.popleft()
                    restarts = 0
                    yield result
            return
        except BrokenProcessPool:
            restarts += 1
            logger.warning("a worker process was killed; its images are processed again")
    raise ModelError(
        f"worker processes died {restarts} times in a row, for lack of memory or because of an image; "
        "reduce --batch-size"
    )


def _record(tasks: Iterable[Task], unfinished: deque[Task]) -> Iterator[Task]:
    for task in tasks:
        unfinished.append(task)
        yield task


class _WorkerPool(ProcessPoolExecutor):
    """Forks of this process that compute `function`. They ignore SIGTERM; `shutdown` kills them.

    Raises OSError or NotImplementedError if no process can be forked.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        super().__init__(
            workers, mp_context=get_context("fork"), initializer=_become_worker, initargs=(function, os.getpid())
        )
        self._workers = self._processes  # shutdown() sets _processes to None
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until the workers ignore them
        try:
            with warnings.catch_warnings():
                # Python warns of forks in a process with threads; the workers use none of the threads' locks
                warnings.simplefilter("ignore", DeprecationWarning)
                self.submit(int)  # forks all workers
        except BaseException:
            self._kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # A killed worker can leave part of a result or task in a pipe. A read of the rest ends only when no process has
        # the other end of the pipe open, neither this one nor another worker. Python closes the reader itself since
        # 3.11.5 (CPython issue 94777).
        self._result_queue._writer.close()  # type: ignore[attr-defined]
        self._call_queue._reader.close()  # type: ignore[attr-defined]
        Thread(target=self._kill_all_when_one_ends, daemon=True).start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._kill()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _kill_all_when_one_ends(self) -> None:
        wait([worker.sentinel for worker in self._workers.values()])
        self._kill()

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()


_function: Callable[[Any], Any]  # set in each worker


def _become_worker(function: Callable[[Any], Any], parent: int) -> None:
    """Ignore stop signals, which the parent handles, and end with the parent, even if it is killed."""
    global _function
    _function = function
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _call(task: Any) -> Any:
    return _function(task)
