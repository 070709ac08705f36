"""Benchmark: the speed of the network alone, by batch size and number of threads."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core.system import usable_cores
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.providers import CPU
from netkit.infer.runtime.session import Session, open_sessions

BATCH_SIZES = (1, 4, 16, 64, 256)
WARM_UP_RUNS = 3  # the first one allocates buffers
ROUNDS, MIN_ROUNDS = 21, 5  # of sessions that take turns
MAX_ROUNDS_S = 1.5  # CPU time; after it, only the first MIN_ROUNDS rounds still run
MAX_BATCH_BYTES = 2**21  # of images, for sessions that take turns
MAX_SPEED_LOSS = 0.03  # relative to the best speed: a smaller batch that loses no more is preferred


@dataclass(frozen=True)
class Speed:
    """Throughput with `threads` batches at a time, and the latency percentiles of a batch in milliseconds."""

    provider: str
    batch_size: int
    threads: int
    images_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def measure(session: Session, *, batch_size: int, threads: int, min_duration_s: float = 1.0) -> Speed:
    """Measure the speed on random images, over at least `min_duration_s` seconds after a warm-up."""
    card = session.card
    shape = batch_size, card.channels, card.height, card.width
    images_u8 = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _ in range(WARM_UP_RUNS):
        session.run(images_u8, size=batch_size)
    started = time.perf_counter()

    def latencies(_: int) -> list[float]:
        durations_s: list[float] = []
        while not durations_s or time.perf_counter() - started < min_duration_s:
            begun = time.perf_counter()
            session.run(images_u8, size=batch_size)
            durations_s.append(time.perf_counter() - begun)
        return durations_s

    with ThreadPoolExecutor(threads) as pool:
        latencies_s = np.concatenate(list(pool.map(latencies, range(threads))))
    images_per_s = len(latencies_s) * batch_size / (time.perf_counter() - started)
    p50, p90, p99 = (round(float(value), 3) for value in np.percentile(latencies_s, (50, 90, 99)) * 1000)
    return Speed(session.provider, batch_size, threads, images_per_s, p50, p90, p99)


def interleaved_speeds(sessions: Sequence[Session], *, batch_size: int = 64, rounds: int = ROUNDS) -> list[float]:
    """The images/s of sessions for the same card, each opened on the CPU with one thread.

    The sessions take turns on random images, and each speed is a median. The time is that of this thread on the CPU,
    so other programs on the machine distort the result less. For large images and slow models, the batches are smaller
    than `batch_size` and the rounds fewer.
    """
    card = sessions[0].card
    shape = card.channels, card.height, card.width
    batch_size = min(batch_size, MAX_BATCH_BYTES // math.prod(shape))
    images_u8 = np.random.default_rng(0).integers(0, 256, (max(1, batch_size), *shape), np.uint8)
    for _ in range(2):  # the first run allocates buffers
        round_s = sum(_run_s(session, images_u8[:1]) for session in sessions)
    images_u8 = images_u8[: max(1, int(MAX_ROUNDS_S / (rounds * round_s)))]
    for session in sessions:
        _run_s(session, images_u8)
    durations_s: list[list[float]] = []
    while len(durations_s) < MIN_ROUNDS or (len(durations_s) < rounds and np.sum(durations_s) < MAX_ROUNDS_S):
        durations_s.append([_run_s(session, images_u8) for session in sessions])
    return [len(images_u8) / duration_s for duration_s in np.median(durations_s, axis=0).tolist()]


def _run_s(session: Session, images_u8: NDArray[np.uint8]) -> float:
    """Run the session; return the CPU time of this thread, in seconds."""
    started = time.thread_time()
    session.run(images_u8)
    return time.thread_time() - started


def sweep(model: Model, *, device: str, batch_sizes: Iterable[int], min_duration_s: float) -> Iterator[Speed]:
    """Measure the model on each provider of `device`, for each batch size, with one thread and with all cores."""
    cores = usable_cores()
    for session in open_sessions(model, device=device, threads=1):
        for threads in sorted({1, cores}) if session.provider == CPU else [1]:
            for batch_size in batch_sizes:
                yield measure(session, batch_size=batch_size, threads=threads, min_duration_s=min_duration_s)


def best(speeds: Iterable[Speed]) -> Speed:
    """Return the smallest batch about as fast as the fastest one, on the same provider with as many threads."""
    speeds = list(speeds)
    fastest = max(speeds, key=lambda speed: speed.images_per_s)
    about_as_fast = [
        speed
        for speed in speeds
        if (speed.provider, speed.threads) == (fastest.provider, fastest.threads)
        and speed.images_per_s >= (1 - MAX_SPEED_LOSS) * fastest.images_per_s
    ]
    return min(about_as_fast, key=lambda speed: speed.batch_size)
