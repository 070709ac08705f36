"""netkit sample."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from netkit.cli import hints
from netkit.cli.console import open_terminal
from netkit.cli.params import COUNT, PATH, data_option, option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("folder", type=PATH, metavar="DIR")
@data_option(default="mnist", help="A data set, as 'train' takes it.")
@option("--count", type=COUNT, metavar="N", help="The first N images only.  [default: all]")
def sample(folder: Path, data: str, count: int | None) -> None:
    """Write test images to try infer on.

    They become DIR/<label>/<index>.png.
    """
    from netkit.data import registry
    from netkit.data.sample import write_sample

    open_terminal()
    written = write_sample(registry.load(data), folder, count=count)
    click.echo(f"{folder}: {written:,} images")
    hints.suggest_infer(f"{folder}{os.sep}")
