"""How fast the network runs here, alone, over sizes of batches and numbers of threads."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from netkit.core.system import usable_cores
from netkit.infer.model.certificate import CPU
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.session import Session, open_sessions

BATCH_SIZES = (1, 4, 16, 64, 256)
WARM_UP = 3  # runs, of which the first allocates
LITTLE = 0.03  # of the best speed: what a smaller batch may lose and still be the better choice


@dataclass(frozen=True)
class Speed:
    """`threads` batches at a time: images a second, and within how many milliseconds 50, 90 and 99 % of them end."""

    provider: str
    batch_size: int
    threads: int
    images_per_s: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


def measure(session: Session, *, batch_size: int, threads: int, least_s: float = 1.0) -> Speed:
    """The speed on noise, over at least `least_s` seconds, after some runs to warm up."""
    card = session.card
    shape = batch_size, card.channels, card.height, card.width
    images_u8 = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _ in range(WARM_UP):
        session.run(images_u8, size=batch_size)
    started = time.perf_counter()

    def latencies(_: int) -> list[float]:
        taken: list[float] = []
        while (begun := time.perf_counter()) - started < least_s:
            session.run(images_u8, size=batch_size)
            taken.append(time.perf_counter() - begun)
        return taken

    with ThreadPoolExecutor(threads) as pool:
        taken_s = [each for worker in pool.map(latencies, range(threads)) for each in worker]
    wall_s = time.perf_counter() - started
    p50, p90, p99 = (round(float(value), 3) for value in np.percentile(taken_s, (50, 90, 99)) * 1000)
    speed = round(len(taken_s) * batch_size / wall_s)
    return Speed(session.provider, batch_size, threads, speed, p50, p90, p99)


def sweep(model: Model, *, device: str, batch_sizes: Iterable[int], least_s: float) -> Iterator[Speed]:
    """The speeds of the model for each size of batches, with one thread and with all, on each provider of `device`."""
    cores = usable_cores()
    for session in open_sessions(model, device=device, threads=1):
        for threads in sorted({1, cores}) if session.provider == CPU else [1]:
            for batch_size in batch_sizes:
                yield measure(session, batch_size=batch_size, threads=threads, least_s=least_s)


def best(speeds: Iterable[Speed]) -> Speed:
    """The fastest; but of the same provider and threads the smallest batch that is hardly slower."""
    known = list(speeds)
    fastest = max(known, key=lambda speed: speed.images_per_s)
    as_good = [
        speed
        for speed in known
        if (speed.provider, speed.threads) == (fastest.provider, fastest.threads)
        and speed.images_per_s >= (1 - LITTLE) * fastest.images_per_s
    ]
    return min(as_good, key=lambda speed: speed.batch_size)
