"""netkit bench."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import COUNT, PATH, device_option, json_option, option
from netkit.core.runs import MODEL, choose

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = click.FloatRange(0, 60, min_open=True)


@click.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@device_option
@option("--batch-size", type=COUNT, metavar="N", multiple=True, help="Size to try.  [default: 1, 4, 16, 64, 256]")
@option("--seconds", type=SECONDS, metavar="S", default=1.0, help="How long each is tried, at least.")
@json_option
def bench(file: Path, device: str, batch_size: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Measure how fast a model runs here.

    The network alone, on noise: images per second and latencies in milliseconds, for several batch sizes and numbers of
    threads, on each device that works here or on that of --device.
    """
    from netkit.infer.model import onnx_file
    from netkit.infer.runtime import bench as benchmark
    from netkit.infer.runtime.providers import CPU, device_of

    with open_terminal().status("running the network"):
        model = onnx_file.read(choose(MODEL, file=file, arch=None))
        sizes = batch_size or benchmark.BATCH_SIZES
        speeds = list(benchmark.sweep(model, device=device, batch_sizes=sizes, least_s=seconds))
    if as_json:
        for speed in speeds:
            print_json(asdict(speed))
    else:
        print_table([asdict(speed) for speed in speeds])
    best = benchmark.best(speeds)
    options = ["--batch-size", str(best.batch_size), "--device", device_of(best.provider)]
    if best.provider == CPU:  # a GPU computes one batch at a time, while other threads decode the next ones
        options += ["--threads", str(best.threads)]
    hints.suggest_infer(model=file, options=options)
