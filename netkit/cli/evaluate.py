"""The command `netkit evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import netkit
from netkit.api.progress import progress_bar
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import PATH, json_option, labelled_images_options, no_verify_option, option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@labelled_images_options
@no_verify_option
@option("--corrupt", is_flag=True, help="Also measure accuracy with noise, blur, fog, ...")
@option("--out", type=PATH, help="Also write a report to this .html file.")
@json_option
def evaluate(file: Path, unverified: bool, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the accuracy of a model on labelled images.

    Prints accuracy, the precision and recall of each class ("-" if it was never predicted or has no images), and
    measures of calibration: the expected calibration error (ECE), the negative log likelihood (NLL) and the Brier
    score, each with a 95% confidence interval. If the model has a temperature other than 1, they are also printed
    for a temperature of 1.

    DATA is a data set as in 'netkit train'; it is required unless the model was trained on mnist or digits. If DATA has
    a test split, netkit uses the test split. If it has only a validation split, netkit uses that. If it has neither,
    netkit uses the images that training held out if the model was trained on DATA, and otherwise all images. Exits with
    1 if an image cannot be read.

    \b
    Example: netkit evaluate model.onnx --data photos/ --out report.html
    """
    terminal = open_terminal()
    with progress_bar("evaluate", console=terminal) as progress:
        evaluation = netkit.evaluate(file, verify=not unverified, out=out, progress=progress, **options)
    if as_json:
        print_json({**asdict(evaluation), "mean_corrupted": evaluation.mean_corrupted})
    else:
        print_table([row.cells for row in evaluation.classes])
        click.echo()
        print_table(evaluation.calibration_cells)
        if evaluation.corrupted:
            click.echo()
            print_table(evaluation.corruption_cells)
        click.echo(f"\n{evaluation}")
    if out is not None:
        terminal.print(f"{out}: report written")
        hints.suggest_infer(model=file)
    else:
        hints.suggest_again(out="report.html", as_json=None)
    if evaluation.unreadable:
        click.get_current_context().exit(1)
