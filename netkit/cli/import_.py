"""netkit import."""

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
@option("--out", type=PATH, help="The .safetensors file to write.  [default: beside it]")
def import_(file: Path, out: Path | None) -> None:
    """Convert PyTorch weights to a .safetensors file.

    A state dict is read without running code that may be in it. 'train --weights' starts from the result.
    """
    from netkit.nets.training import weights

    out = out or file.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: weights are written as .safetensors")
    click.echo(f"{out}: {weights.convert(file, out):,} tensors")
    hints.suggest("train", options=["--weights", str(out), "--help"])  # which network they fit is not known
