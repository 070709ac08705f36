"""The workers of a run as actors of Ray Data, with one session each. Needs netkit's extra [cluster]."""

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each run
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its native lines would stand among netkit's messages

import ray
from ray.data import ActorPoolStrategy, DataContext

from infer.cluster import Engine
from infer.shards import Made, Plan, Shard, Worker
from nets.errors import UsageError

PATIENCE_S = 10
LOOPBACK = "127.0.0.1"
STORE = 2**28  # bytes of memory that actors share: neither rows nor the model pass through it
BLOCKS = 64  # of shards, for each actor: what is handed out at once


class Actor:
    """A worker as Ray calls it: rows of a table in and out, with text in them."""

    def __init__(self, plan: Plan) -> None:
        self._worker = Worker(plan)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"made": json.dumps(asdict(self._worker(Shard.from_json(row["shard"]))))}


def engine(address: str | None, workers: int) -> Engine:
    """So many actors on the cluster at `address`, else on one that is made on this machine alone.

    With the plan's device "cuda" each has a GPU of its own, else a core. Raises UsageError where there is no cluster at
    that address.
    """
    if address:
        _require_listener(address)

    def made(plan: Plan, shards: Sequence[Shard]) -> Iterator[Made]:
        if not shards:
            return
        with _cluster(address, workers):
            actors = min(workers, len(shards))
            rows = [{"shard": shard.to_json()} for shard in shards]
            table = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS * actors))
            gpus = 1 if plan.device == "cuda" else 0
            done = table.map(
                Actor,  # type: ignore[arg-type]  # a class whose objects are called is fine, too
                fn_constructor_args=[plan],
                compute=ActorPoolStrategy(size=actors),
                num_cpus=1 - gpus,
                num_gpus=gpus,
            )
            for row in done.iter_rows():
                yield Made(**json.loads(row["made"]))

    return made


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[None]:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    own: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "_node_ip_address": LOOPBACK,
        "object_store_memory": STORE,
    }
    try:
        with _stderr_silenced():  # but for one native line, which says that there will be none
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    except (ConnectionError, ValueError) as fault:
        raise UsageError(f"--address {address}: no Ray cluster there: {str(fault).splitlines()[0]}") from None
    context = DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _require_listener(address: str) -> None:
    """Raise UsageError where nothing listens at host:port, or ray://host:port: Ray itself asks for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # "auto" and the like: Ray knows at once
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as fault:
        raise UsageError(f"--address {address}: no Ray cluster there: {fault}") from None
