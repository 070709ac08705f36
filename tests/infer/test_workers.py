"""Workers return the result of each task in order, even if some workers are killed."""

import itertools
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from netkit.core.errors import ImageError, Interrupted, MissingExtraError, ModelError, NetkitError
from netkit.infer.pipeline.processes import MAX_RESTARTS, map_in_processes
from netkit.infer.pipeline.threads import TASKS_PER_WORKER, map_in_threads

PARENT = os.getpid()
Map = Callable[..., Generator[object]]
LARGE = 10 * 65_536  # bytes; a pipe holds 65,536
with_threads_and_processes = pytest.mark.parametrize("map_tasks", [map_in_threads, map_in_processes])


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{PARENT}/children").read_text().split())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("infer")]


@with_threads_and_processes
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(map_tasks: Map, workers: int) -> None:
    def every_fifth_task_is_slow(number: int) -> int:
        time.sleep(0.002 * (number % 5 == 0))
        return number**2

    assert list(map_tasks(every_fifth_task_is_slow, range(50), workers=workers)) == [number**2 for number in range(50)]


@with_threads_and_processes
@pytest.mark.parametrize("workers", [1, 3])
def test_tasks_are_read_only_as_far_ahead_as_keeps_the_workers_busy(map_tasks: Map, workers: int) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    for done, _ in enumerate(map_tasks(str, tasks(), workers=workers)):
        assert len(taken) <= done + 1 + TASKS_PER_WORKER * workers


def fails_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is not possible")
    return number


@with_threads_and_processes
@pytest.mark.parametrize("workers", [1, 4])
def test_an_exception_in_a_worker_is_raised_after_the_results_before_it(map_tasks: Map, workers: int) -> None:
    results = map_tasks(fails_at_three, range(6), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is not possible"):
        next(results)
    assert not threads()


@pytest.mark.parametrize(
    "error",
    [
        ModelError("a.onnx: fails"),
        ImageError("damaged", "cannot be decoded"),
        MissingExtraError("pyarrow", "parquet"),
        Interrupted("stopped", 15),
    ],
)
def test_netkit_errors_are_passed_between_processes_unchanged(error: NetkitError) -> None:
    def fail(number: int) -> int:
        raise error

    with pytest.raises(type(error)) as caught:
        list(map_in_processes(fail, range(3), workers=2))
    assert str(caught.value) == str(error) and vars(caught.value).items() >= vars(error).items()


@with_threads_and_processes
def test_an_exception_from_the_iterator_of_tasks_is_raised_in_the_caller(map_tasks: Map) -> None:
    def tasks() -> Iterator[int]:
        yield from range(3)
        raise OSError("the list is incomplete")

    before = children()
    with pytest.raises(OSError, match="the list is incomplete"):
        list(map_tasks(str, tasks(), workers=2))
    assert children() == before and not threads()


def test_tasks_of_a_killed_worker_run_again(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def kills_its_worker_once(number: int) -> bytes:
        marker = tmp_path / str(number)
        if number % 15 == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes([number]) * LARGE  # fills the pipe, so that the other workers block in a write

    with caplog.at_level(logging.WARNING):
        results = list(map_in_processes(kills_its_worker_once, range(40), workers=3))
    assert results == [bytes([number]) * LARGE for number in range(40)]
    assert set(caplog.messages) == {"a worker process was killed; its images are processed again"}


HUGE = 100_000_000  # bytes; sending them through a pipe takes 0.05 s
READ, WRITE = 0, 1  # numbers of system calls on x86-64
SYSTEM_CALL = Path("/proc/self/syscall")  # number and arguments of the main thread's current system call


def kill_during(system_call: int) -> None:
    """Kill this process while its main thread reads or writes more than 1 MB."""
    while True:
        number, *arguments = SYSTEM_CALL.read_text().split()
        if number == str(system_call) and int(arguments[2], 16) > 1_000_000:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(
    not SYSTEM_CALL.exists() or platform.machine() != "x86_64", reason="reads system call numbers of x86-64 in /proc"
)
@pytest.mark.parametrize("system_call", [READ, WRITE])
def test_a_worker_killed_while_it_reads_a_task_or_writes_a_result_is_replaced(tmp_path: Path, system_call: int) -> None:
    killed = tmp_path / "killed"

    def kills_its_worker_once(task: bytes) -> bytes:
        if not killed.exists():
            killed.touch()
            threading.Thread(target=kill_during, args=[system_call], daemon=True).start()
        return bytes(HUGE) if system_call == WRITE else b""

    tasks = [b""] * 4 if system_call == WRITE else [b"", *[bytes(HUGE)] * 3]
    results = map_in_processes(kills_its_worker_once, tasks, workers=2)
    assert [len(result) for result in results] == [HUGE if system_call == WRITE else 0] * 4
    assert killed.exists()


def test_a_task_that_kills_each_worker_ends_the_run_with_an_error(tmp_path: Path) -> None:
    def kills_its_worker(number: int) -> int:
        if number == 5:
            with open(tmp_path / "attempts", "ab") as file:
                file.write(b".")
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    done = []
    with pytest.raises(ModelError, match="worker processes died 4 times in a row"):
        for number in map_in_processes(kills_its_worker, range(20), workers=2):
            done.append(number)
    assert done == [0, 1, 2, 3, 4]
    assert (tmp_path / "attempts").stat().st_size == MAX_RESTARTS + 1


def test_tasks_and_results_may_be_larger_than_a_pipe() -> None:
    tasks = [bytes([number]) * LARGE for number in range(8)]
    assert list(map_in_processes(lambda content: content * 2, tasks, workers=2)) == [task * 2 for task in tasks]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_closing_early_ends_busy_processes(exception: type[BaseException]) -> None:
    def slow(number: int) -> int:
        time.sleep(60 if number else 0)
        return number

    before = children()
    results = map_in_processes(slow, range(4), workers=2)
    assert next(results) == 0
    assert len(children() - before) == 2
    if exception is GeneratorExit:
        results.close()
    else:
        with pytest.raises(exception):
            results.throw(exception)
    assert children() == before


def test_closing_early_ends_processes_that_send_results() -> None:
    before = children()
    for _ in range(10):
        results = map_in_processes(lambda _: bytes(10_000_000), range(20), workers=2)
        assert len(next(results)) == 10_000_000
        results.close()
        assert children() == before


def test_only_the_parent_handles_stop_signals() -> None:
    before = children()
    results = map_in_processes(str, range(50), workers=2)
    assert next(results) == "0"
    for worker in children() - before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(int(worker), number)
    assert list(results) == [str(number) for number in range(1, 50)]


ORPHANS = """
import sys, time
from netkit.infer.pipeline.processes import map_in_processes
def slow(number):
    time.sleep(60 if number else 0)
results = map_in_processes(slow, range(8), workers=3)
next(results)
print("ready", flush=True)
time.sleep(60)
"""


def test_workers_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.stdout.read() == b""  # returns when the last worker has ended


def test_a_parent_may_ignore_sigchld() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert list(map_in_processes(str, range(9), workers=2)) == [str(number) for number in range(9)]
    finally:
        signal.signal(signal.SIGCHLD, before)


LIMITED = """
import logging, multiprocessing.popen_fork, multiprocessing.queues, multiprocessing.synchronize, os, resource
from netkit.infer.pipeline.processes import map_in_processes
logging.basicConfig(level=logging.INFO, format="%(message)s")
if os.getuid() == 0:  # the limit does not apply to root
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
print(list(map_in_processes(str, range(5), workers=1)))
"""


def test_threads_are_used_if_no_process_can_be_forked() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "['0', '1', '2', '3', '4']\n", done.stderr
    assert "using threads instead of processes: [Errno 11] Resource temporarily unavailable" in done.stderr


def test_one_worker_thread_is_the_calling_thread() -> None:
    names = map_in_threads(lambda _: threading.current_thread().name, range(3), workers=1)
    assert set(names) == {threading.current_thread().name}


def test_closing_early_ends_the_threads_and_drops_waiting_tasks() -> None:
    done: list[int] = []

    def record(number: int) -> int:
        done.append(number)
        return number

    results = map_in_threads(record, itertools.count(), workers=2)
    assert next(results) == 0
    results.close()
    assert not threads() and len(done) <= 1 + TASKS_PER_WORKER * 2
