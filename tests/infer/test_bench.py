"""Benchmarks measure real runs, and the suggested batch size follows from the speeds."""

import json
import time
from pathlib import Path

import pytest

from netkit.infer.runtime import bench
from netkit.infer.runtime.bench import Speed
from netkit.infer.runtime.session import Session
from tests.support.commands import Netkit


def test_the_speed_agrees_with_the_elapsed_time(session: Session) -> None:
    started = time.perf_counter()
    speed = bench.measure(session, batch_size=16, threads=2, min_duration_s=0.3)
    wall_s = time.perf_counter() - started
    assert (speed.provider, speed.batch_size, speed.threads) == ("CPUExecutionProvider", 16, 2)
    assert 0 < speed.p50_ms <= speed.p90_ms <= speed.p99_ms < wall_s * 1000
    assert speed.images_per_s * wall_s > 16  # at least one batch
    assert speed.images_per_s <= 2 * 16 / (speed.p50_ms / 1000) * 2  # at most twice that of two threads


def test_each_thread_runs_at_least_once_however_short_the_duration(session: Session) -> None:
    speed = bench.measure(session, batch_size=2, threads=3, min_duration_s=1e-9)
    assert speed.images_per_s > 0 and speed.p50_ms > 0


def speed(batch_size: int, images_per_s: float, *, threads: int = 2) -> Speed:
    return Speed("CPUExecutionProvider", batch_size, threads, images_per_s, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("speeds", "best"),
    [
        ([speed(1, 100), speed(16, 980), speed(64, 1000)], (16, 2)),
        ([speed(1, 100), speed(16, 900), speed(64, 1000)], (64, 2)),
        ([speed(1, 1000, threads=1), speed(1, 500), speed(16, 999)], (1, 1)),
        ([speed(1, 1.6), speed(16, 2.4)], (16, 2)),
    ],
)
def test_the_smallest_batch_that_is_hardly_slower_is_best(speeds: list[Speed], best: tuple[int, int]) -> None:
    speed = bench.best(speeds)
    assert (speed.batch_size, speed.threads) == best


def test_the_command_measures_the_given_batch_sizes_and_suggests_the_best(netkit: Netkit, workspace: Path) -> None:
    model = workspace / "runs/residual/model.onnx"
    options = ("--batch-size", "2", "--batch-size", "8", "--seconds", "0.1", "--device", "cpu")
    done = netkit("bench", model, *options, "--json")
    assert done.returncode == 0, done.stderr
    speeds = [json.loads(line) for line in done.stdout.splitlines()]
    assert {speed["batch_size"] for speed in speeds} == {2, 8}
    assert all(speed["images_per_s"] > 0 for speed in speeds)
    *_, last = done.stderr.splitlines()
    best = bench.best([Speed(**speed) for speed in speeds])
    advice = f"--batch-size {best.batch_size} --device cpu --threads {best.threads}"
    assert last == f"next: netkit infer --model {model} {advice} --help"
    rejected = netkit("bench", model, "--seconds", "0")
    assert rejected.returncode == 2 and "--seconds 0: must be a number above 0" in rejected.stderr
    table = netkit("bench", model, *options)
    assert table.stdout.split("\n")[0].split() == [
        "device", "batch", "size", "threads", "images", "per", "s", "p50", "ms", "p90", "ms", "p99", "ms",
    ]  # fmt: skip
