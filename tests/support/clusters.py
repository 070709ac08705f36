"""Cluster engines whose only worker runs in the process of the test."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from netkit.infer.cluster import driver
from netkit.infer.cluster.shards import Plan, Shard, ShardResult, Worker

ShardRunner = Callable[[Plan, Sequence[Shard]], Generator[ShardResult]]


class Stopped(BaseException):
    pass


def run_in_process(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
    """Run the shards in this process, one after the other."""
    yield from map(Worker(plan), shards)


def stop_after(reported: int) -> ShardRunner:
    """A runner that writes one more shard than it reports, and stops."""

    def runner(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
        *results, _ = map(Worker(plan), shards[: reported + 1])
        yield from results
        raise Stopped

    return runner


def record_numbers(numbers: list[int]) -> ShardRunner:
    """A runner that appends the number of each shard to `numbers`."""

    def runner(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
        numbers.extend(shard.number for shard in shards)
        yield from run_in_process(plan, shards)

    return runner


def engine_of(runner: ShardRunner) -> driver.Engine:
    return lambda plan: nullcontext(partial(runner, plan))


def engine_that_raises(exc: Exception) -> driver.Engine:
    def engine(plan: Plan) -> AbstractContextManager[driver.RunShards]:
        raise exc

    return engine
