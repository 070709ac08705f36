"""The workers of a run as actors of Ray Data, with one session each. Needs netkit's extra [cluster]."""

import json
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from threading import Event, Thread
from typing import Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each run
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its native lines would stand among netkit's messages

import ray
from ray.client_builder import ClientContext
from ray.data import ActorPoolStrategy, DataContext

from netkit.core.errors import DeviceError, ModelError, UsageError, first_line
from netkit.infer.cluster.driver import Engine, Work
from netkit.infer.cluster.shards import Made, Plan, Shard, Worker

logger = logging.getLogger(__name__)

PATIENCE_S = 10
CLIENT = "ray://"  # an address for drivers that are no part of the cluster
STORE = 2**28  # bytes of memory that actors share: neither rows nor the model pass through it
BLOCKS = 64  # of shards, for each actor: what is handed out at once


class Actor:
    """A worker as Ray calls it: rows of a table in and out, with text in them. What it logs goes with the rows."""

    def __init__(self, plan: Plan) -> None:
        self._worker, self._notes = Worker(plan), _Notes()
        log = logging.getLogger("netkit")
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
    """So many actors, or fewer, on the cluster at `address`, else on one that is made on this machine alone.

    That one keeps to loopback if RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0 when this module is imported: infer.engines
    sees to it. Raises UsageError where there is no cluster at that address, DeviceError where the plan's device is
    "cuda", and it has no GPU.
    """

    @contextmanager
    def connected(plan: Plan) -> Iterator[Work]:
        with _cluster(address, workers) as is_client:
            gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
            if plan.device == "cuda" and not gpus:
                raise DeviceError("the cluster has no GPU, which --device cuda asks for")
            if plan.device == "auto" and gpus:
                logger.info("running on the CPU: --device cuda runs on the cluster's GPUs (%d)", gpus)
            yield partial(_made, _given_to_client if is_client else _given, plan, pool_for(plan.device, workers, gpus))

    return connected


class Pool(NamedTuple):
    """So many actors, each with a core, or with a GPU."""

    actors: int
    gpu: bool


def pool_for(device: str, workers: int, gpus: int) -> Pool:
    """With "cuda" each actor has a GPU of its own, and there are no more than those; else each has a core."""
    return Pool(min(workers, gpus), True) if device == "cuda" else Pool(workers, False)


Given = dict[str, Any]  # by an actor, of a shard
Give = Callable[[Plan, Pool, Sequence[Shard]], Generator[Given]]


def _made(give: Give, plan: Plan, pool: Pool, shards: Sequence[Shard]) -> Generator[Made]:
    try:
        yield from read_rows(give(plan, pool, shards))
    except (ray.exceptions.RayError, ConnectionError) as fault:
        raise ModelError(f"Ray failed: {first_line(fault)}; go on with --resume") from None


def _given(plan: Plan, pool: Pool, shards: Sequence[Shard]) -> Generator[Given]:
    """By the actors, as it comes."""
    DataContext.get_current().enable_progress_bars = False
    actors = min(pool.actors, len(shards))
    rows = [{"shard": shard.to_json()} for shard in shards]
    table = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS * actors))
    done = table.map(
        Actor,  # type: ignore[arg-type]  # a class whose objects are called is fine, too
        fn_constructor_args=[plan],
        compute=ActorPoolStrategy(size=actors),
        num_cpus=0 if pool.gpu else 1,
        num_gpus=1 if pool.gpu else 0,
    )
    yield from done.iter_rows()


class _Feed:
    """An actor that drives the others from within the cluster."""

    def __init__(self, plan: Plan, pool: Pool, shards: Sequence[Shard]) -> None:
        self._given = _given(plan, pool, shards)

    def next(self) -> Given | None:
        """One more of what they give; None after the last."""
        return next(self._given, None)


def _given_to_client(plan: Plan, pool: Pool, shards: Sequence[Shard]) -> Generator[Given]:
    """The same for a driver that is no part of the cluster: Ray Data cannot be driven from there."""
    feed: Any = ray.remote(num_cpus=0)(_Feed).remote(plan, pool, shards)
    while given := ray.get(feed.next.remote()):
        yield given


def read_rows(rows: Iterable[Given]) -> Generator[Made]:
    """Yield what the actors return for each shard. Log their messages, each kind once."""
    logged: set[str] = set()
    for row in rows:
        for kind, message in json.loads(row["notes"]):
            if kind not in logged:
                logger.warning("%s", message)
                logged.add(kind)
        yield Made(**json.loads(row["made"]))


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[bool]:
    """Gives whether this process is its client, no part of it.

    Ray is started in a thread: there it leaves signals alone, and is not cut off. Its processes end with that thread. A
    stop waits until they are all there to be ended; a cluster that does not answer is not waited for.
    """
    started: Future[bool] = Future()
    ended = Event()

    def start() -> None:
        try:
            started.set_result(_start(address, workers))
        except BaseException as fault:
            started.set_exception(fault)
        ended.wait()

    Thread(target=start, daemon=True).start()
    try:
        with _stderr_silenced():
            is_client = started.result()
        yield is_client
    finally:
        if not address:
            wait([started])
        if started.done():
            ray.shutdown()
        ended.set()


def _start(address: str | None, workers: int) -> bool:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address:
        _require_listener(address)
    own: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": STORE}
    try:
        # "local": else it looks for a cluster that runs on this machine
        context = ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own)
        )
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as fault:
        if not address:
            raise UsageError(f"Ray cannot be started here: {first_line(fault)}") from None
        if isinstance(fault, ConnectionAbortedError):  # the last line of the traceback from Ray's server
            cause = str(fault).strip().rpartition("\n")[2]
            raise UsageError(f"--address {address}: the Ray cluster accepts no driver: {cause}") from None
        is_shut = isinstance(fault, ConnectionError | ray.exceptions.AuthenticationError)
        hint = "; if it asks for a token, set RAY_AUTH_MODE=token" if is_shut else ""
        raise UsageError(f"--address {address}: no Ray cluster there: {first_line(fault)}{hint}") from None
    return isinstance(context, ClientContext)


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Of one native line, which says that there will be none."""
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
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not port.isdecimal():
        return  # "auto" and the like: Ray knows at once
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as fault:
        raise UsageError(f"--address {address}: no Ray cluster there: {fault}") from None
