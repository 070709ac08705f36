"""Entry point of `python -m netkit` and `torchrun -m netkit`."""

from netkit.cli import cli

cli()
