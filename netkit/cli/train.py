"""netkit train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import netkit
from netkit.api.progress import progress_bar
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json
from netkit.cli.params import (
    COUNT,
    NUMBERS,
    PATH,
    SIZE,
    LazyChoice,
    arch_option,
    data_option,
    device_option,
    json_option,
    option,
)
from netkit.core.errors import Interrupted, TrainingError
from netkit.core.runs import is_user_code

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def _recipes() -> Iterable[str]:
    from netkit.nets.training.recipe import ALIASES, RECIPES

    return [*RECIPES, *ALIASES]


def _precisions() -> Iterable[str]:
    from netkit.nets.training.recipe import PRECISIONS

    return PRECISIONS


PRECISION = LazyChoice("precision", _precisions)


@click.command()
@arch_option(default="inception", help="Network to train; see 'netkit nets'.")
@data_option(default="mnist", help="Data set to train on; see above.")
@option("--image-size", type=SIZE, help="Scale images to this size.  [default: the size that all have]")
@option("--resize", type=COUNT, metavar="N", help="Scale the shorter side, then crop to --image-size.")
@option("--channels", type=int, metavar="[1|3]", help="1: grey, 3: RGB.  [default: as the images are]")
@option("--mean", type=NUMBERS, help="To subtract, for pixels in [0, 1].  [default: the images']")
@option("--std", type=NUMBERS, help="To divide by.  [default: the images']")
@option("--val-split", type=float, default=0.2, help="Share to test on, where there is no test/ or val/.")
@option("--weights", type=PATH, help="A .safetensors file to start from; see 'netkit import'.")
@option("--recipe", type=LazyChoice("recipe", _recipes), default="fast", help="How to train.")
@option("--epochs", type=float, help="Passes over the training images.  [default: the recipe's]")
@option("--batch-size", type=COUNT, metavar="N", help="Images per step.  [default: the recipe's]")
@option("--lr", type=float, help="Peak learning rate.  [default: the recipe's]")
@option("--ema", type=float, help="Decay of averaged weights, 0 for none.  [default: the recipe's]")
@option("--precision", type=PRECISION, metavar="NAME", help="auto, fp32, bf16 or fp16.  [default: the recipe's]")
@option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", default=0, help="Seed of all randomness.")
@device_option
@option("--out", type=PATH, help="Folder of the run.  [default: runs/<arch>]")
@option("--resume", is_flag=True, help="Continue the run in the folder, if it was stopped.")
@option("--compile", is_flag=True, help="Compile the step: up to 40 s to start; no faster on CPUs.")
@option("--deterministic", is_flag=True, help="The same weights each time on CUDA, too; slower.")
@option("--tensorboard", is_flag=True, help="Write logs for TensorBoard, too.")
@json_option
def train(arch: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Train a network.

    Writes model.safetensors (weights and model card), metrics.csv, run.json and plots to a folder.

    ARCH is one of netkit's networks, torchvision/NAME, or MODULE:CLASS for a class of your own. DATA is mnist, digits,
    a folder with a folder of images per class or with files in MNIST's format, or a .csv file with the columns path,
    label and optionally split.
    """
    from netkit.nets.training import distributed

    ranks = distributed.from_environment()
    terminal = open_terminal(quiet=not ranks.first)
    try:
        with progress_bar(arch, console=terminal) as progress:
            run = netkit.train(
                arch,
                out=out,
                progress=progress,
                on_epoch=lambda metrics: terminal.print(f"epoch {metrics}"),
                stop_on_signal=True,
                **options,
            )
    except (Interrupted, TrainingError) as exc:
        if not ranks.first:  # all processes stop alike, and the first one prints it
            click.get_current_context().exit(exc.exit_code)
        if isinstance(exc, Interrupted):
            hints.suggest_again(resume=True, launcher=ranks.launcher())
        raise
    if not ranks.first:
        return
    accuracy = run.card.origin.test_accuracy
    if as_json:
        print_json({"weights": str(run.weights), "test_accuracy": accuracy})
    else:
        click.echo(f"{run.weights}: test accuracy {accuracy:.2%}")
    source = ["--run", str(out)] if out else []
    hints.suggest("export", options=[*source, *(["--arch", arch] if not out or is_user_code(arch) else [])])
