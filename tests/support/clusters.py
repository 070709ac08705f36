"""An engine of one worker in this process."""

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from functools import partial

from netkit.infer.cluster import driver
from netkit.infer.cluster.shards import Made, Plan, Shard, Worker

Make = Callable[[Plan, Sequence[Shard]], Generator[Made]]


def in_turn(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
    """What an engine of one worker, here, makes."""
    yield from map(Worker(plan), some)


def engine_of(make: Make) -> driver.Engine:
    return lambda plan: nullcontext(partial(make, plan))
