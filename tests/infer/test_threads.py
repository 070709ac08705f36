"""A team's results come in the order of the work, whoever did it, and nobody waits while there is work to begin."""

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest

from netkit.infer.pipeline.threads import Team

T = TypeVar("T")


def called(work: Callable[[], T]) -> T:
    return work()


def waiting_for(event: threading.Event, result: str) -> str:
    assert event.wait(timeout=60)
    return f"{result} by {threading.current_thread().name}"


@pytest.mark.parametrize("size", [1, 2, 5])
def test_results_come_in_the_order_in_which_the_work_was_given(size: int) -> None:
    with Team[int, int](size, lambda index: index**2) as team:
        for index in range(20):
            team.give(index)
            assert len(team) == index + 1
        assert [team.take() for _ in range(20)] == [index**2 for index in range(20)]
        assert not team


def test_who_would_wait_does_what_none_has_begun() -> None:
    """The first work ends only when the last is done, and the one other thread is busy with the first."""
    begun, ended = threading.Event(), threading.Event()

    def first() -> str:
        begun.set()
        return waiting_for(ended, "first")

    def last() -> str:
        ended.set()
        return f"last by {threading.current_thread().name}"

    with Team[Callable[[], str], str](2, called) as team:
        team.give(first)
        assert begun.wait(timeout=60)
        team.give(last)
        assert [team.take(), team.take()] == ["first by infer_0", "last by MainThread"]


def test_alone_all_is_done_in_this_thread_and_not_before_it_is_taken() -> None:
    done: list[str] = []

    def note() -> None:
        done.append(threading.current_thread().name)

    with Team[Callable[[], None], None](1, called) as team:
        team.give(note)
        assert not done
        team.take()
    assert done == ["MainThread"]


def failing() -> int:
    raise ValueError("this work cannot be done")


@pytest.mark.parametrize("size", [1, 3])
def test_a_fault_comes_when_its_turn_comes_and_the_others_can_still_be_taken(size: int) -> None:
    work: list[Callable[[], int]] = [lambda: 1, failing, lambda: 3]
    with Team[Callable[[], int], int](size, called) as team:
        for each in work:
            team.give(each)
        assert team.take() == 1
        with pytest.raises(ValueError, match="cannot be done"):
            team.take()
        assert team.take() == 3


def test_leaving_drops_what_none_has_begun() -> None:
    begun, ended = threading.Event(), threading.Event()
    done: list[int] = []

    def first() -> None:
        begun.set()
        assert ended.wait(timeout=60)
        done.append(0)

    with Team[Callable[[], None], None](2, called) as team:
        team.give(first)
        assert begun.wait(timeout=60)
        for index in range(1, 5):
            team.give(partial(done.append, index))
        threading.Timer(0.3, ended.set).start()  # when the context is being left, which waits for the first
    assert done == [0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("infer")]


def test_an_interrupt_in_the_midst_of_helping_leaves_no_thread() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    ended = threading.Event()
    with pytest.raises(KeyboardInterrupt), Team[Callable[[], bool | None], bool | None](2, called) as team:
        begun = threading.Event()

        def first() -> bool:
            begun.set()
            return ended.wait(timeout=60)

        team.give(first)
        assert begun.wait(timeout=60)
        team.give(interrupted)
        threading.Timer(0.3, ended.set).start()
        team.take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("infer")]
