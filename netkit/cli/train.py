"""The command `netkit train`."""

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
    label_column_option,
    layout_option,
    max_bytes_option,
    max_pixels_option,
    option,
    path_column_option,
)
from netkit.core.errors import Interrupted, TrainingError
from netkit.core.runs import is_user_code

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from netkit.nets.training.metrics import EpochMetrics


def _recipes() -> Iterable[str]:
    from netkit.nets.training.recipe import ALIASES, RECIPES

    return [*RECIPES, *ALIASES]


def _precisions() -> Iterable[str]:
    from netkit.nets.training.recipe import PRECISIONS

    return PRECISIONS


def _augmentations() -> Iterable[str]:
    from netkit.nets.training.recipe import AUGMENTATIONS

    return AUGMENTATIONS


def _class_weights() -> Iterable[str]:
    from netkit.nets.training.recipe import CLASS_WEIGHTS

    return CLASS_WEIGHTS


RECIPE = LazyChoice("recipe", _recipes)
PRECISION = LazyChoice("precision", _precisions)
AUGMENTATION = LazyChoice("augmentation", _augmentations)
CLASS_WEIGHTS = LazyChoice("class weights", _class_weights)
FROM_RECIPE, FROM_DATA = "from the recipe", "from the images"


@click.command()
@arch_option(default="inception", help="Network to train; see 'netkit nets'.")
@data_option(default="mnist", help="Data set to train on.")
@option("--image-size", type=SIZE, help="Scale images to this size, in pixels.", show_default="size of the images")
@option("--resize", type=COUNT, metavar="N", help="Scale the shorter side to N pixels, then crop to --image-size.")
@option("--channels", type=int, metavar="[1|3]", help="1 for grey, 3 for RGB.", show_default="as in the images")
@option("--mean", type=NUMBERS, help="Mean per channel, of pixels in [0, 1].", show_default=FROM_DATA)
@option("--std", type=NUMBERS, help="Standard deviation per channel.", show_default=FROM_DATA)
@option("--val-split", type=float, default=0.2, help="Fraction held out as test images if DATA has none.")
@layout_option(default="auto")
@path_column_option(default="path")
@label_column_option(default="label")
@option(
    "--max-unreadable",
    type=float,
    metavar="SHARE",
    default=0.01,
    help="Fraction of images that may be unreadable, or 5 files.",
)
@option("--weights", type=PATH, help=".safetensors file with initial weights; see 'netkit import'.")
@option("--recipe", type=RECIPE, metavar="NAME", default="fast", help="Training recipe: fast or baseline.")
@option("--epochs", type=float, help="Passes over the training images.", show_default=FROM_RECIPE)
@option("--batch-size", type=COUNT, metavar="N", help="Images per optimizer step.", show_default=FROM_RECIPE)
@option("--lr", type=float, help="Peak learning rate.", show_default=FROM_RECIPE)
@option("--ema", type=float, help="EMA decay of the weights; 0 is off.", show_default=FROM_RECIPE)
@option(
    "--precision",
    type=PRECISION,
    metavar="NAME",
    help="fp32, bf16, fp16; auto: bf16 if supported.",
    show_default=FROM_RECIPE,
)
@option("--augment", type=AUGMENTATION, metavar="NAME", help="none, digits or photos.", show_default=FROM_DATA)
@option("--class-weights", type=CLASS_WEIGHTS, metavar="NAME", default="none", help="none or balanced classes.")
@option("--freeze", is_flag=True, help="Train the last layer only; needs --weights.")
@option("--patience", type=COUNT, metavar="N", help="Stop after N epochs without a better validation accuracy.")
@option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", default=0, help="Random seed.")
@device_option
@option("--out", type=PATH, help="Run folder to write.", show_default="runs/ARCH")
@option("--resume", is_flag=True, help="Continue an interrupted run in the run folder.")
@option("--compile", is_flag=True, help="Use torch.compile; adds up to 40 s, no speed-up on CPUs.")
@option("--deterministic", is_flag=True, help="Use deterministic algorithms on CUDA; slower.")
@option("--tensorboard", is_flag=True, help="Also write TensorBoard logs to the run folder.")
@max_bytes_option
@max_pixels_option
@json_option
def train(arch: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Train a network and write its weights to a run folder.

    The run folder receives model.safetensors (weights and model card), metrics.csv, run.json and plots.

    ARCH is a netkit network, torchvision/NAME, or MODULE:CLASS for your own nn.Module. DATA is mnist, digits, a folder
    with one subfolder of images per class, a folder with files in MNIST's format, or a .csv or .tsv file with the
    columns path, label and optionally split (train, val or test). A folder may contain train/ with val/, test/ or both.

    \b
    Example: netkit train --arch residual --data photos/ --image-size 64
    """
    from netkit.nets.training import distributed

    ranks = distributed.from_environment()
    terminal = open_terminal(quiet=not ranks.is_main)
    hidden: EpochMetrics | None = None  # the latest epoch, if its line was not printed

    def on_epoch(metrics: EpochMetrics) -> None:
        """Print at most 10 lines for each power of 10. A terminal has the progress bar instead."""
        nonlocal hidden
        hidden = metrics
        if not terminal.is_interactive and metrics.epoch % 10 ** (len(str(metrics.epoch)) - 1) == 0:
            terminal.print(f"epoch {metrics}")
            hidden = None

    try:
        with progress_bar(arch, console=terminal) as progress:
            run = netkit.train(arch, out=out, progress=progress, on_epoch=on_epoch, stop_on_signal=True, **options)
        if hidden:
            terminal.print(f"epoch {hidden}")
    except (Interrupted, TrainingError) as exc:
        if not ranks.is_main:  # all processes stop, and only the first one prints the message
            click.get_current_context().exit(exc.exit_code)
        if isinstance(exc, Interrupted):
            hints.suggest_again(resume=True, launcher=ranks.launcher())
        raise
    if not ranks.is_main:
        return
    accuracy = run.card.origin.test_accuracy
    if as_json:
        print_json({"weights": str(run.weights), "test_accuracy": accuracy})
    else:
        note = " (on the validation images: there are no test images)" if run.card.origin.validated_on_test else ""
        click.echo(f"{run.weights}: test accuracy {accuracy:.2%}{note}")
    source = ["--run", str(out)] if out else []
    hints.suggest("export", options=[*source, *(["--arch", arch] if not out or is_user_code(arch) else [])])
