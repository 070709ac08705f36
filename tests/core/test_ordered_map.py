"""ordered_map: the order of results, the number of submitted calls, exceptions, and early stops."""

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from itertools import count

import pytest

from netkit.core.ordered_map import ordered_map


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2)


def test_results_come_in_input_order_when_a_later_call_finishes_first(pool: ThreadPoolExecutor) -> None:
    second_is_done = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(10)
        else:
            second_is_done.set()
        return item * 10

    assert list(ordered_map(pool, call, range(5), window=2)) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("window", [1, 2, 7, 100])
@pytest.mark.parametrize("items", [range(50), []])
def test_every_item_gives_one_result_with_any_window(
    pool: ThreadPoolExecutor, window: int, items: Sequence[int]
) -> None:
    assert list(ordered_map(pool, str, items, window=window)) == [str(number) for number in items]


def test_items_are_pulled_only_to_fill_the_window(pool: ThreadPoolExecutor) -> None:
    pulled: list[int] = []

    def infinite_items() -> Iterator[int]:
        for item in count():
            pulled.append(item)
            yield item

    with closing(ordered_map(pool, abs, infinite_items(), window=3)) as results:
        assert pulled == []
        for taken in range(1, 5):
            assert next(results) == taken - 1
            assert len(pulled) == taken + 3


def test_an_exception_in_a_call_is_raised_in_place_of_its_result(pool: ThreadPoolExecutor) -> None:
    results = ordered_map(pool, lambda item: 12 // item, [4, 3, 0, 2], window=4)
    assert [next(results), next(results)] == [3, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_calls_that_have_not_started_are_cancelled_when_the_caller_stops() -> None:
    started: list[int] = []
    may_finish, blocked = threading.Event(), threading.Event()

    def call(item: int) -> int:
        started.append(item)
        if item == 1:
            blocked.set()
            assert may_finish.wait(10)
        return item

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            may_finish.set()
            super().shutdown(wait)

    with closing(ordered_map(Pool(1), call, range(100), window=10)) as results:
        assert next(results) == 0
        assert blocked.wait(10)
    assert started == [0, 1]


def test_the_executor_is_shut_down_at_the_end(pool: ThreadPoolExecutor) -> None:
    assert list(ordered_map(pool, abs, [1], window=1)) == [1]
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_a_process_pool_works_like_a_thread_pool() -> None:
    executor = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    assert list(ordered_map(executor, abs, range(-9, 0), window=4)) == list(range(9, 0, -1))


def test_a_window_of_zero_is_rejected(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(ValueError, match="window must be at least 1, not 0"):
        next(ordered_map(pool, abs, [1], window=0))
