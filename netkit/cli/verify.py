"""netkit verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import netkit
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_checks
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
    checks = netkit.verify(file, device=device)
    print_checks(checks, as_json=as_json)
    if not all(check.ok for check in checks):
        click.get_current_context().exit(1)
    hints.suggest_infer(model=file)
