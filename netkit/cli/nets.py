"""The command `netkit nets`."""

from __future__ import annotations

from dataclasses import asdict

import click

from netkit.cli import hints
from netkit.cli.console import print_json, print_table
from netkit.cli.params import ARCHITECTURE, json_option
from netkit.core.errors import UsageError
from netkit.core.runs import is_external


@click.command()
@click.argument("arch", required=False, type=ARCHITECTURE, metavar="[ARCH]")
@json_option
def nets(arch: str | None, as_json: bool) -> None:
    """List the networks with parameters, multiply-adds and papers.

    With ARCH, one of these networks, list its layers. The numbers are for one grey image of 28x28 pixels.
    """
    from netkit.nets import create, summary

    if arch and is_external(arch):
        raise UsageError(f"{arch}: 'netkit nets' lists only netkit's own networks; 'netkit train' takes others, too")
    layers = summary.layers(create(arch), summary.DIGIT) if arch else []
    rows = [asdict(row) for row in layers or map(summary.summary, ARCHITECTURE.names())]
    if as_json:
        for row in rows:
            print_json(row)
    else:
        print_table(rows)
    bottlenecks = summary.bottlenecks(create(arch), summary.DIGIT) if arch and not as_json else []
    if bottlenecks:
        click.echo(
            "\nMultiply-adds of each k x k convolution with the 1x1 convolution (bottleneck) before it, and without it."
            "\nThe last row, from another network, is for comparison.\n"
        )
        print_table([asdict(row) for row in (*bottlenecks, summary.googlenet_bottleneck())])
    if arch:
        hints.suggest("train", options=["--arch", arch])
    else:
        hints.suggest("nets", "inception")
