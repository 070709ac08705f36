"""The command `netkit import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netkit.cli import hints
from netkit.cli.console import open_terminal
from netkit.cli.params import PATH, SIZE, arch_option, option
from netkit.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("import")
@click.argument("file", type=PATH, metavar="FILE.pth")
@option("--out", type=PATH, help=".safetensors file to write.", show_default="next to FILE.pth")
@arch_option(help="Network to check the weights against.", show_default="no check")
@option("--image-size", type=SIZE, help="Input of this network.", show_default="by the network")
def import_(file: Path, out: Path | None, arch: str | None, image_size: tuple[int, int] | None) -> None:
    """Convert a PyTorch state dict to a .safetensors file.

    FILE.pth is read without running any code in it. It may be a checkpoint that contains the state dict, as training
    scripts and Lightning write it. Prefixes of compiled and wrapped networks are removed from the names, and weights
    are converted to float32. 'netkit train --weights' starts from the converted file.

    With --arch, the weights must be those of this network, for any number of classes. Otherwise the error says which
    tensors are missing or unexpected, and nothing is written.

    \b
    Example: netkit import resnet18.pth --arch torchvision/resnet18
    """
    from netkit.nets.training import weights

    out = out or file.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: the name of the output file must end with .safetensors")
    open_terminal()
    count = weights.convert(file, out, arch=arch, size=image_size)
    click.echo(f"{out}: {count:,} tensor{'' if count == 1 else 's'}")
    network = ["--arch", arch] if arch else []
    hints.suggest("train", options=[*network, "--weights", str(out), "--help"])  # the data set is unknown
