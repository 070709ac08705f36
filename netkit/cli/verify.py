"""The command `netkit verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import netkit
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_checks
from netkit.cli.params import PATH, every_device_option, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@every_device_option
@json_option
def verify(file: Path, device: str, as_json: bool) -> None:
    """Check that a model gives the same outputs here as at export.

    Checks that the file is unchanged since its export, and runs up to 16 test images that are stored in the file. Each
    logit may differ from the stored one by at most the bound in the file, which was measured at export. Exits with 1 if
    a check fails.

    \b
    Example: netkit verify runs/inception/model.onnx
    """
    open_terminal()
    checks = netkit.verify(file, device=device)
    print_checks(checks, as_json=as_json)
    if not all(check.ok for check in checks):
        click.get_current_context().exit(1)
    hints.suggest_infer(model=file)
