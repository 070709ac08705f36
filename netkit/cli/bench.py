"""The command `netkit bench`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import COUNT, PATH, Number, every_device_option, json_option, option
from netkit.core.runs import MODEL, choose

if TYPE_CHECKING:
    from pathlib import Path

    from netkit.infer.runtime.bench import Speed


@click.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@every_device_option
@option(
    "--batch-size",
    type=COUNT,
    metavar="N",
    multiple=True,
    help="Images per batch; repeatable.",
    show_default="1, 4, 16, 64, 256",
)
@option(
    "--seconds",
    type=Number(float, 0, 60, above=True),
    metavar="S",
    default=1.0,
    help="Minimum seconds per measurement.",
)
@json_option
def bench(file: Path, device: str, batch_size: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Measure the speed of a model on this machine.

    Runs the network on random images. For each device, batch size and number of threads, prints the images per second
    and the latency of a batch (median, 90th and 99th percentile). Reading and decoding image files is not included.

    \b
    Example: netkit bench runs/inception/model.onnx --batch-size 1 --batch-size 64
    """
    from netkit.infer.model import onnx_file
    from netkit.infer.model.verify import warn_if_failed
    from netkit.infer.runtime import bench as benchmark
    from netkit.infer.runtime.providers import CPU, device_of

    terminal = open_terminal()
    model = onnx_file.read(choose(MODEL, file=file, arch=None))
    warn_if_failed(model, "measuring its speed anyway")
    with terminal.status("running the network"):
        sizes = tuple(dict.fromkeys(batch_size)) or benchmark.BATCH_SIZES
        speeds = list(benchmark.sweep(model, device=device, batch_sizes=sizes, min_duration_s=seconds))
    if as_json:
        for speed in speeds:
            print_json({**asdict(speed), "images_per_s": round(speed.images_per_s, 1)})
    else:
        print_table([{"device": device_of(speed.provider), **_figures(speed)} for speed in speeds])
    best = benchmark.best(speeds)
    options = ["--batch-size", str(best.batch_size), "--device", device_of(best.provider)]
    if best.provider == CPU:  # a GPU runs one batch at a time while other threads decode
        options += ["--threads", str(best.threads)]
    hints.suggest_infer(model=file, options=options)


def _figures(speed: Speed) -> dict[str, object]:
    """The columns of the table after the device."""
    rounded = f"{speed.images_per_s:.{0 if speed.images_per_s >= 100 else 1}f}"
    return {name: value for name, value in asdict(speed).items() if name != "provider"} | {"images_per_s": rounded}
