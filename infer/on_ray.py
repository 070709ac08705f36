"""The workers of a run as actors of Ray Data, with one session each. Needs netkit's extra [cluster]."""

import json
import logging
import os
import signal
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each run
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its native lines would stand among netkit's messages

import ray
from ray.data import ActorPoolStrategy, DataContext

from infer.cluster import Engine, Work
from infer.shards import Made, Plan, Shard, Worker
from nets.errors import DeviceError, ModelError, UsageError

logger = logging.getLogger(__name__)

PATIENCE_S = 10
LOOPBACK = "127.0.0.1"
STORE = 2**28  # bytes of memory that actors share: neither rows nor the model pass through it
BLOCKS = 64  # of shards, for each actor: what is handed out at once


class Actor:
    """A worker as Ray calls it: rows of a table in and out, with text in them. What it logs goes with the rows."""

    def __init__(self, plan: Plan) -> None:
        self._worker, self._notes = Worker(plan), _Notes()
        log = logging.getLogger("infer")
        log.handlers, log.propagate = [self._notes], False
        log.setLevel(logging.INFO)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        made = self._worker(Shard.from_json(row["shard"]))
        notes, self._notes.taken = self._notes.taken, []
        return {"made": json.dumps(asdict(made)), "notes": json.dumps(notes)}


class _Notes(logging.Handler):
    """Keeps what is logged, as (the message before its values are put in, the whole)."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.taken.append((str(record.msg), record.getMessage()))


def engine(address: str | None, workers: int) -> Engine:
    """So many actors on the cluster at `address`, else on one that is made on this machine alone.

    With the plan's device "cuda" each has a GPU of its own, else a core. Raises UsageError where there is no cluster at
    that address, DeviceError where it has no GPU.
    """

    @contextmanager
    def connected(plan: Plan) -> Iterator[Work]:
        with _cluster(address, workers):
            if plan.device == "cuda" and ray.cluster_resources().get("GPU", 0) < 1:  # type: ignore[no-untyped-call]
                raise DeviceError("the cluster has no GPU, which --device cuda asks for")
            yield partial(_made, plan, workers)

    return connected


def _made(plan: Plan, workers: int, shards: Sequence[Shard]) -> Generator[Made]:
    if not shards:
        return
    actors, gpus = min(workers, len(shards)), 1 if plan.device == "cuda" else 0
    rows = [{"shard": shard.to_json()} for shard in shards]
    table = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS * actors))
    done = table.map(
        Actor,  # type: ignore[arg-type]  # a class whose objects are called is fine, too
        fn_constructor_args=[plan],
        compute=ActorPoolStrategy(size=actors),
        num_cpus=1 - gpus,
        num_gpus=gpus,
    )
    told: set[str] = set()
    try:
        for row in done.iter_rows():
            for kind, note in json.loads(row["notes"]):
                if kind not in told:  # each worker says so, maybe of each shard
                    logger.warning("%s", note)
                    told.add(kind)
            yield Made(**json.loads(row["made"]))
    except ray.exceptions.RayError as fault:
        raise ModelError(f"Ray failed: {_told(fault)}; go on with --resume") from None


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
    if address:
        _require_listener(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _stderr_silenced():  # but for one native line, which says that there will be none
            # "local": else it looks for a cluster that runs on this machine
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else own),
            )
    except (ConnectionError, ValueError, RuntimeError) as fault:
        where = f"--address {address}: no Ray cluster there" if address else "Ray cannot be started here"
        raise UsageError(f"{where}: {_told(fault)}") from None
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in place
    DataContext.get_current().enable_progress_bars = False
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


def _told(fault: Exception) -> str:
    """Its first line: traces of Ray's own code follow."""
    return str(fault).strip().partition("\n")[0]
