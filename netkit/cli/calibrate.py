"""The command `netkit calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import netkit
from netkit.api.progress import progress_bar
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import PATH, json_option, labelled_images_options, option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@labelled_images_options
@option("--out", type=PATH, help=".onnx file to write.", show_default="MODEL.calibrated.onnx")
@json_option
def calibrate(file: Path, as_json: bool, **options: Any) -> None:
    """Calibrate the probabilities of a model on labelled images.

    Writes a new model whose probabilities are softmax(logits / temperature). The temperature, from 0.05 to 20,
    minimizes the negative log likelihood (NLL) on the images, but keeps the mean probability of the predicted class
    below 1. Labels and logits do not change. The certificate in the new file contains the SHA-256 of MODEL.onnx.

    DATA is a data set as in 'netkit evaluate', with at least 100 images that were not used for training. If DATA has a
    validation split, netkit uses the validation split. Otherwise it uses the same images as 'netkit evaluate'; in this
    case, evaluate the new model on another data set. Exits with 1 if an image cannot be read.

    \b
    Example: netkit calibrate model.onnx --data photos/
    """
    terminal = open_terminal()
    with progress_bar("calibrate", console=terminal) as progress:
        result = netkit.calibrate(file, progress=progress, **options)
    if as_json:
        print_json({**asdict(result), "path": str(result.path)})
    else:
        print_table([result.before.cells, result.after.cells])
        click.echo(f"\n{result.path}: temperature {result.after.temperature:.4g}, fitted to {result.images:,} images")
    hints.suggest_infer(model=result.path)
    if result.unreadable:
        click.get_current_context().exit(1)
