"""Ray Data as the engine of a run: one actor per core or GPU, each with its own session. Needs the extra [cluster]."""

import json
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from typing import Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report each run to its developers
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # keeps the log of Ray's C++ code off stderr
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # hides errors of Ray's actors; netkit handles its own
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # Ray would abort the process 3 s after a SIGTERM

import ray
from ray.client_builder import ClientContext
from ray.data import ActorPoolStrategy, DataContext

from netkit.core.errors import DeviceError, ModelError, UsageError, first_line
from netkit.infer.cluster.driver import Engine, RunShards
from netkit.infer.cluster.shards import Plan, Shard, ShardResult, Worker

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
SIGNAL_CHECK_S = 0.1  # time between checks for a signal
CLIENT_SCHEME = "ray://"  # of the address for a driver that runs outside the cluster
OBJECT_STORE_BYTES = 2**28  # shared memory of a new cluster; neither rows nor the model pass through it
BLOCKS_PER_ACTOR = 64  # Ray Data schedules blocks; each contains one shard or more

ActorRow = dict[str, Any]  # an actor's output for one shard


class ShardActor:
    """A Worker with the interface of Ray Data: dictionaries with JSON text in and out.

    Log messages are returned with the result, for the driver to log.
    """

    def __init__(self, plan: Plan) -> None:
        self._worker, self._messages = Worker(plan), _MessageCollector()
        log = logging.getLogger("netkit")
        log.handlers, log.propagate = [self._messages], False
        log.setLevel(logging.INFO)

    def __call__(self, row: dict[str, Any]) -> ActorRow:
        result = self._worker(Shard.from_json(row["shard"]))
        return {"result": json.dumps(result.as_dict()), "messages": json.dumps(self._messages.take())}


class _MessageCollector(logging.Handler):
    """Collects log messages: the level, the format string, and the formatted message."""

    def __init__(self) -> None:
        super().__init__()
        self._collected: list[tuple[int, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._collected.append((record.levelno, str(record.msg), record.getMessage()))

    def take(self) -> list[tuple[int, str, str]]:
        """Return the collected messages and forget them."""
        taken, self._collected = self._collected, []
        return taken


def engine(address: str | None, workers: int) -> Engine:
    """Return an engine of at most `workers` actors on the cluster at `address`, or on a new one on this machine.

    If RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0 when this module is imported, which netkit.infer.engines ensures, a new
    cluster listens on loopback only. The engine raises UsageError if there is no cluster at the address, and
    DeviceError if the plan's device is "cuda" and the cluster has no GPU.
    """

    @contextmanager
    def start(plan: Plan) -> Iterator[RunShards]:
        with _connected(address, workers) as is_client:
            gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
            if plan.device == "cuda" and not gpus:
                raise DeviceError("--device cuda: the cluster has no GPU; pass --device cpu")
            if plan.device == "auto" and gpus:
                logger.info("running on the CPU; pass --device cuda to run on the GPUs of the cluster (%d)", gpus)
            map_shards = _map_shards_as_client if is_client else _map_shards
            yield partial(_run_shards, map_shards, plan, pool_for(plan.device, workers, gpus))

    return start


class Pool(NamedTuple):
    """The number of actors, and whether each has a GPU rather than a core."""

    actors: int
    gpu: bool


def pool_for(device: str, workers: int, gpus: int) -> Pool:
    """Return the pool for a device: with "cuda" one GPU per actor, and so at most `gpus`; otherwise one core each."""
    return Pool(min(workers, gpus), True) if device == "cuda" else Pool(workers, False)


MapShards = Callable[[Plan, Pool, Sequence[Shard]], Generator[ActorRow]]


def _run_shards(map_shards: MapShards, plan: Plan, pool: Pool, shards: Sequence[Shard]) -> Generator[ShardResult]:
    try:
        yield from read_results(map_shards(plan, pool, shards))
    except (ray.exceptions.RayError, ConnectionError) as exc:
        raise ModelError(f"Ray failed: {first_line(exc)}; continue with --resume") from None


def _map_shards(plan: Plan, pool: Pool, shards: Sequence[Shard]) -> Generator[ActorRow]:
    """Yield the actors' rows in the order in which they are completed."""
    DataContext.get_current().enable_progress_bars = False
    actors = min(pool.actors, len(shards))
    items = [{"shard": shard.to_json()} for shard in shards]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS_PER_ACTOR * actors))
    rows = dataset.map(
        ShardActor,  # type: ignore[arg-type]  # Ray's annotation omits callable classes
        fn_constructor_args=[plan],
        compute=ActorPoolStrategy(size=actors),
        num_cpus=0 if pool.gpu else 1,
        num_gpus=1 if pool.gpu else 0,
    )
    yield from rows.iter_rows()


class _MapActor:
    """Runs `_map_shards` in an actor inside the cluster."""

    def __init__(self, plan: Plan, pool: Pool, shards: Sequence[Shard]) -> None:
        self._rows = _map_shards(plan, pool, shards)

    def next(self) -> ActorRow | None:
        """The next row; None after the last."""
        return next(self._rows, None)


def _map_shards_as_client(plan: Plan, pool: Pool, shards: Sequence[Shard]) -> Generator[ActorRow]:
    """As `_map_shards`, for a driver outside the cluster, where Ray Data does not work."""
    actor: Any = ray.remote(num_cpus=0)(_MapActor).remote(plan, pool, shards)
    while row := ray.get(actor.next.remote()):
        yield row


def read_results(rows: Iterable[ActorRow]) -> Generator[ShardResult]:
    """Yield the actors' results. Log their messages; of those with the same format string, only the first."""
    logged: set[str] = set()
    for row in rows:
        for level, template, message in json.loads(row["messages"]):
            if template not in logged:
                logger.log(level, "%s", message)
                logged.add(template)
        yield ShardResult.from_dict(json.loads(row["result"]))


@contextmanager
def _connected(address: str | None, workers: int) -> Iterator[bool]:
    """Connect to the cluster at `address`, or start one. Yields whether this process is a client outside the cluster.

    `ray.init` runs in a thread: it installs no signal handlers there, and a signal to this process does not interrupt
    it. Ray's processes end with that thread. At a stop, wait until a new cluster has started all its processes, so
    that `ray.shutdown` ends them all; do not wait for an existing cluster that does not answer.
    """
    init_result: Future[bool] = Future()
    shut_down = Event()

    def init() -> None:
        try:
            init_result.set_result(_init_ray(address, workers))
        except BaseException as exc:
            init_result.set_exception(exc)
        shut_down.wait()

    Thread(target=init, daemon=True).start()
    try:
        with _stderr_silenced():
            while not init_result.done():  # without a timeout, 4 of 10 signals did not end the wait
                wait([init_result], timeout=SIGNAL_CHECK_S)
            is_client = init_result.result()
        yield is_client
    finally:
        if not address:
            wait([init_result])
        if init_result.done():
            ray.shutdown()
        shut_down.set()


def _init_ray(address: str | None, workers: int) -> bool:
    """Connect to a cluster or start one; return whether this process is a client outside it. Raises UsageError."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address:
        _require_listener(address)
    new_cluster: dict[str, Any] = {
        "num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
    }  # fmt: skip
    try:
        context = ray.init(
            address=address or "local",  # without "local", Ray joins a cluster that runs on this machine
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else new_cluster),
        )
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as exc:
        if not address:
            raise UsageError(f"Ray cannot be started here: {first_line(exc)}") from None
        if isinstance(exc, ConnectionAbortedError):  # its message is the traceback of Ray's server
            cause = str(exc).strip().rpartition("\n")[2]
            raise UsageError(f"--address {address}: cannot connect to the Ray cluster: {cause}") from None
        if "Could not find any running Ray instance" in str(exc):
            raise UsageError(f"--address {address}: no Ray cluster runs here; omit --address to start one") from None
        may_need_token = isinstance(exc, ConnectionError | ray.exceptions.AuthenticationError)
        hint = "; if it requires a token, set RAY_AUTH_MODE=token" if may_need_token else ""
        raise UsageError(
            f"--address {address}: cannot connect to the Ray cluster: {first_line(exc).rstrip('.')}{hint}"
        ) from None
    return isinstance(context, ClientContext)


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Suppress a line that Ray's C++ code prints to announce that its log is off."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _require_listener(address: str) -> None:
    """Raise UsageError if nothing listens at host:port or ray://host:port, where Ray itself would retry for minutes."""
    host, _, port = address.removeprefix(CLIENT_SCHEME).rpartition(":")
    if not port.isdecimal():
        return  # "auto" and the like, for which Ray fails at once
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as exc:
        raise UsageError(f"--address {address}: cannot connect to the Ray cluster: {exc}") from None
