"""The command `netkit import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netkit.cli import hints
from netkit.cli.params import PATH, option
from netkit.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("import")
@click.argument("file", type=PATH, metavar="FILE.pth")
@option("--out", type=PATH, help=".safetensors file to write.", show_default="next to FILE.pth")
def import_(file: Path, out: Path | None) -> None:
    """Convert a PyTorch state dict to a .safetensors file.

    FILE.pth is read without running any code in it. 'netkit train --weights' starts from the converted weights.

    \b
    Example: netkit import resnet18.pth --out resnet18.safetensors
    """
    from netkit.nets.training import weights

    out = out or file.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: the name of the output file must end with .safetensors")
    count = weights.convert(file, out)
    click.echo(f"{out}: {count:,} tensor{'' if count == 1 else 's'}")
    hints.suggest("train", options=["--weights", str(out), "--help"])  # the matching network is unknown
