"""The command `netkit doctor`."""

from __future__ import annotations

import click

from netkit.cli import hints
from netkit.cli.console import print_checks
from netkit.cli.params import json_option


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check the installation of netkit, and CUDA if there is a GPU.

    Prints how to fix each problem. Exits with 1 if a check fails. Without an NVIDIA GPU, the check of CUDA passes.
    """
    from netkit.infer.runtime.doctor import examine

    checks = tuple(examine())
    print_checks(checks, as_json=as_json)
    if not all(check.ok for check in checks):
        click.get_current_context().exit(1)
    hints.suggest_infer()
