"""The command `netkit nets`."""

from __future__ import annotations

from dataclasses import asdict

import click

from netkit.cli import hints
from netkit.cli.console import print_json, print_table
from netkit.cli.params import OWN_ARCHITECTURE, json_option


@click.command()
@click.argument("arch", required=False, type=OWN_ARCHITECTURE, metavar="[ARCH]")
@json_option
def nets(arch: str | None, as_json: bool) -> None:
    """List the networks with their parameters, multiply-adds and papers.

    With ARCH, list the layers of that network. The numbers are for one grey image of 28x28 pixels.
    """
    from netkit.nets import create, summary

    layers = summary.layers(create(arch), summary.DIGIT) if arch else []
    rows = [asdict(row) for row in layers or map(summary.summary, OWN_ARCHITECTURE.names())]
    if as_json:
        for row in rows:
            print_json(row)
    else:
        print_table(rows)
    bottlenecks = summary.bottlenecks(create(arch), summary.DIGIT) if arch and not as_json else []
    if bottlenecks:
        click.echo("\nMultiply-adds of each k x k convolution with its 1x1 bottleneck, and without it:\n")
        print_table([asdict(row) for row in (*bottlenecks, summary.textbook_bottleneck())])
    if arch:
        hints.suggest("train", options=["--arch", arch])
    else:
        hints.suggest("nets", "inception")
