"""The command `netkit sample`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from netkit.cli import hints
from netkit.cli.console import open_terminal
from netkit.cli.params import COUNT, PATH, data_option, label_column_option, layout_option, option, path_column_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("folder", type=PATH, metavar="DIR")
@data_option(default="mnist", help="Data set, as in 'netkit train'.")
@layout_option(default="auto")
@path_column_option(default="path")
@label_column_option(default="label")
@option("--count", type=COUNT, metavar="N", help="Number of images in total.", show_default="all")
def sample(folder: Path, data: str, count: int | None, **reading: Any) -> None:
    """Write the test images of a data set as PNG files.

    Each image is written to DIR/LABEL/INDEX.png, so that 'netkit infer DIR' reports the accuracy. INDEX is the
    position of the image among all test images. The first position is 0.
    """
    from netkit.data import registry
    from netkit.data.options import Options
    from netkit.data.sample import write_sample

    open_terminal()
    options = Options(**reading)
    registry.require_fitting(data, options.reading)
    written = write_sample(registry.load(data, options), folder, count=count)
    note = f" (all test images of {data}, which are fewer than --count {count})" if written < (count or 0) else ""
    click.echo(f"wrote {written:,} image{'' if written == 1 else 's'} to {folder}{os.sep}{note}")
    hints.suggest_infer(f"{folder}{os.sep}")
