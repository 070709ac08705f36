"""Processes: forks of this one that work beside it, each with a lock of its own for Python, which threads share.

A fork costs a few milliseconds, and has the open session without opening it anew. As in a team of threads the one that
gives work lends a hand where it would only wait, and results come in the order of the work.
"""

import logging
import os
import pickle
import select
import signal
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

from netkit.infer.pipeline.threads import AHEAD, fulfil

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
T = TypeVar("T")

FITS = 65_536  # bytes that a pipe holds: with more, the two could wait for each other to read
MOST_FILES = 1 << 20  # that Linux lets a process have open, unless it is told otherwise
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Task(Generic[Item, T]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.result: Future[T] = Future()


class _Member(Generic[Item, T]):
    """One process, and what it was given and has not answered yet."""

    def __init__(self, work: Callable[[Item], T]) -> None:
        self.connection, theirs = Pipe()
        self.tasks: deque[_Task[Item, T]] = deque()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until the fork ignores them
        try:
            with warnings.catch_warnings():
                # of forks beside threads, whose locks might be held: a member uses none of theirs
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if not self.pid:
                _serve(work, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    def take(self, task: _Task[Item, T]) -> bool:
        """Whether there is room for it now."""
        if len(self.tasks) >= AHEAD:
            return False
        message = pickle.dumps(task.item)
        if self.tasks and len(message) > FITS:
            return False
        self.connection.send_bytes(message)
        self.tasks.append(task)
        return True

    def answer(self) -> None:
        """Take the answer that is there. Raises EOFError or ConnectionError where the process has ended."""
        result = pickle.loads(self.connection.recv_bytes())
        self.tasks.popleft().result.set_result(result)

    def end(self) -> int:
        """At once; gives its exit status."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.connection.close()
        try:
            return os.waitpid(self.pid, 0)[1]
        except ChildProcessError:  # whoever started this process had it ignore that children end: nothing is known
            return 0


class Processes(Generic[Item, T]):
    """`size` processes, of which this one is one, or fewer where no more can be had; each does `work` on an item.

    Items and results are pickled. What a process that was killed has left undone, another does; so what raises an
    exception there does so here, too. Leaving the context ends them.
    """

    def __init__(self, size: int, work: Callable[[Item], T]) -> None:
        self._work = work
        self._tasks: deque[_Task[Item, T]] = deque()
        self._left: deque[_Task[Item, T]] = deque()  # those that none has begun
        self._members: dict[int, _Member[Item, T]] = {}  # by the number of the file that their answers come from
        self._answers = select.poll()  # kept: to ask by one made anew took 2.8 us, not 0.4
        try:
            while len(self._members) < size - 1:
                member = _Member(work)
                self._members[member.connection.fileno()] = member
                self._answers.register(member.connection, select.POLLIN)
        except OSError as fault:
            logger.info("%d processes instead of %d: %s", len(self._members) + 1, size, fault)

    def __enter__(self) -> "Processes[Item, T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._members:
            self._members.popitem()[1].end()

    def __len__(self) -> int:
        """How many results are still to be taken."""
        return len(self._tasks)

    def give(self, item: Item) -> None:
        """Work for whoever is free next."""
        task = _Task[Item, T](item)
        self._tasks.append(task)
        self._left.append(task)
        self._share()

    def take(self) -> T:
        """The result of the work that was given first. Until it is there, this process does what none has begun."""
        first = self._tasks[0].result
        while not first.done():
            self._share()
            if self._left and not first.done():
                task = self._left.popleft()
                fulfil(task.result, partial(self._work, task.item))
            elif not first.done():
                self._collect(None)
        self._tasks.popleft()
        return first.result()

    def _share(self) -> None:
        """Take all answers that are there, and give out what is left as far as there is room."""
        self._collect(0)
        for number, member in list(self._members.items()):
            try:
                while self._left and member.take(self._left[0]):
                    self._left.popleft()
            except ConnectionError:
                self._lose(number)

    def _collect(self, wait_ms: int | None) -> None:
        for number, _ in self._answers.poll(wait_ms):
            try:
                self._members[number].answer()
            except (EOFError, ConnectionError):
                self._lose(number)

    def _lose(self, number: int) -> None:
        member = self._members.pop(number)
        self._answers.unregister(number)
        status = member.end()
        if os.WIFSIGNALED(status):
            logger.warning("warning: a process that helped was killed by signal %d; going on", os.WTERMSIG(status))
        self._left.extendleft(reversed(member.tasks))


def _serve(work: Callable[[Item], T], connection: Connection) -> NoReturn:
    """Do work until nobody gives any more; the one who gives it is who is asked to stop."""
    try:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        # files of the others: a lock on the results, and the pipes of other members, whose end none would see
        os.closerange(3, connection.fileno())
        os.closerange(connection.fileno() + 1, MOST_FILES)
        while True:
            connection.send_bytes(pickle.dumps(work(pickle.loads(connection.recv_bytes()))))
    finally:
        os._exit(0)  # without a word: whatever ails the work is found again by who gave it
