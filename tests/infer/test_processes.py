"""Processes' results come in the order of the work, whoever did it, although some are killed or fail at it."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netkit.infer.pipeline.processes import FITS, Processes

ALONE = os.getpid()


def squared(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_results_come_in_the_order_in_which_the_work_was_given(size: int) -> None:
    with Processes[int, tuple[int, int]](size, squared) as team:
        for index in range(50):
            team.give(index)
            assert len(team) == index + 1
        results = [team.take() for _ in range(50)]
        assert not team
    assert [result for result, _ in results] == [index**2 for index in range(50)]
    assert len({pid for _, pid in results}) in range(1, size + 1)


def test_who_would_wait_does_what_none_has_begun(tmp_path: Path) -> None:
    """The other process ends its first work only when this one has done some."""
    done_here = tmp_path / "done"

    def work(number: int) -> tuple[int, int]:
        if os.getpid() == ALONE:
            done_here.touch()
        while not done_here.exists():
            time.sleep(0.01)
        return number, os.getpid()

    with Processes[int, tuple[int, int]](2, work) as team:
        for number in range(6):
            team.give(number)
        numbers, doers = zip(*(team.take() for _ in range(6)), strict=True)
    assert numbers == tuple(range(6))
    assert doers[0] != ALONE and ALONE in doers


def doubled(content: bytes) -> bytes:
    return content * 2


@pytest.mark.parametrize("size", [FITS - 100, 10 * FITS])
def test_items_and_results_larger_than_a_pipe_let_nobody_wait_for_ever(size: int) -> None:
    with Processes[bytes, bytes](2, doubled) as team:
        for index in range(8):
            team.give(bytes([index]) * size)
        for index in range(8):
            assert team.take() == bytes([index]) * (2 * size)


def failing_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three cannot be done")
    return number


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_fault_comes_when_its_turn_comes_and_the_others_can_still_be_taken(size: int) -> None:
    with Processes[int, int](size, failing_at_three) as team:
        for number in range(6):
            team.give(number)
        assert [team.take() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three cannot be done"):
            team.take()
        assert [team.take() for _ in range(2)] == [4, 5]


def test_what_a_killed_process_leaves_undone_another_does(caplog: pytest.LogCaptureFixture) -> None:
    def deadly(number: int) -> int:
        if number % 5 == 1 and os.getpid() != ALONE:
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2

    with caplog.at_level(logging.WARNING), Processes[int, int](4, deadly) as team:
        for number in range(40):
            team.give(number)
        assert [team.take() for _ in range(40)] == [number**2 for number in range(40)]
    killed = "warning: a process that helped was killed by signal 9; going on"
    assert killed in caplog.messages and set(caplog.messages) == {killed}


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{ALONE}/children").read_text().split())


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_leaving_ends_them_at_once_although_they_are_at_work(fault: type[BaseException]) -> None:
    before = children()
    with pytest.raises(fault), Processes[float, None](3, time.sleep) as team:
        assert len(children() - before) == 2
        for _ in range(4):
            team.give(60)
        raise fault
    assert children() == before


def test_a_stop_is_for_the_one_who_gives_the_work() -> None:
    before = children()
    with Processes[int, tuple[int, int]](2, squared) as team:
        (helper,) = (int(pid) for pid in children() - before)
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(helper, stop)
        for number in range(6):
            team.give(number)
        assert helper in [pid for _, pid in (team.take() for _ in range(6))]


def open_files(_: int) -> tuple[int, set[str]]:
    if os.getpid() != ALONE:
        time.sleep(0.2)  # that this process does some, too
    links = Path("/proc/self/fd").iterdir()
    return os.getpid(), {os.path.realpath(link) for link in links}


def test_they_hold_no_file_of_their_parent(tmp_path: Path) -> None:
    path = str(tmp_path / "held")
    with open(path, "w"), Processes[int, tuple[int, set[str]]](2, open_files) as team:
        for number in range(6):
            team.give(number)
        found = dict(team.take() for _ in range(6))
    assert len(found) == 2 and [pid for pid, names in found.items() if path in names] == [ALONE]


PARENT = """
import time
from netkit.infer.pipeline.processes import Processes
with Processes(3, time.sleep) as team:
    for _ in range(4):
        team.give(0.1)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_they_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.stdout.read() == b""  # comes when the last of them has closed it


def test_whoever_started_this_may_have_it_ignore_that_children_end() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Processes[int, tuple[int, int]](2, squared) as team:
            for index in range(9):
                team.give(index)
            assert [team.take()[0] for _ in range(9)] == [index**2 for index in range(9)]
    finally:
        signal.signal(signal.SIGCHLD, before)
