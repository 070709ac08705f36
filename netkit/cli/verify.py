"""netkit verify."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

import netkit
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import PATH, device_option, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@device_option
@json_option
def verify(file: Path, device: str, as_json: bool) -> None:
    """Check a model on this machine.

    Checks that the model is unchanged since it was certified, and runs the images that it carries, on each device that
    works here or on that of --device. Exits with 1 if anything is not as certified.
    """
    open_terminal()
    findings = [asdict(finding) for finding in netkit.verify(file, device=device)]
    if as_json:
        for finding in findings:
            print_json(finding)
    else:
        print_table([{**finding, "right": "yes" if finding["right"] else "NO"} for finding in findings])
    if not all(finding["right"] for finding in findings):
        click.get_current_context().exit(1)
    hints.suggest_infer(model=file)
