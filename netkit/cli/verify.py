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
    """Check that a model is unchanged and computes the right outputs.

    Checks that the network, the model card and the test images in the file are unchanged since its export. Then runs
    these test images (at most 16). Each logit may differ from the stored one by at most the bound that 'netkit export'
    wrote to the file; on a device that was not compared at export, by 4 times this bound. The stored logits are those
    of PyTorch in float64; in an fp16 or int8 file, those of the model at export. Exits with 1 if a check fails.

    \b
    Example: netkit verify runs/inception/model.onnx
    """
    open_terminal()
    checks = netkit.verify(file, device=device)
    print_checks(checks, as_json=as_json)
    if not all(check.ok for check in checks):
        click.get_current_context().exit(1)
    hints.suggest_infer(model=file)
