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
    NUMBER,
    NUMBERS,
    PATH,
    SIZE,
    WHOLE_NUMBER,
    Number,
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
from netkit.cli.process import fail
from netkit.core.errors import Interrupted, TrainingError
from netkit.core.runs import is_user_code

if TYPE_CHECKING:
    from pathlib import Path

    from netkit.nets.training.metrics import EpochMetrics


FROM_RECIPE, MEASURED, OFF = "recipe", "measured", "off"


@click.command()
@arch_option(default="inception", help="Network; see 'netkit nets'.")
@data_option(default="mnist", help="Data set.")
@option("--image-size", type=SIZE, help="Size of the network's input.", show_default="as the images")
@option("--resize", type=COUNT, metavar="N", help="Scale the shorter side to N, crop.", show_default="stretch")
@option("--channels", type=WHOLE_NUMBER, metavar="[1|3]", help="1: grey, 3: RGB.", show_default="as the images")
@option("--mean", type=NUMBERS, help="Mean per channel, 0 to 1.", show_default=MEASURED)
@option("--std", type=NUMBERS, help="Standard deviation per channel.", show_default=MEASURED)
@option("--val-split", type=NUMBER, default=0.2, help="Share held out if DATA has no splits.")
@layout_option(default="auto")
@path_column_option(default="path")
@label_column_option(default="label")
@option("--max-unreadable", type=NUMBER, metavar="SHARE", default=0.01, help="Allowed share of unreadable files.")
@option("--weights", type=PATH, help="Initial weights (.safetensors).", show_default="random")
@option("--recipe", metavar="NAME", default="fast", help="fast or baseline (plain SGD).")
@option("--epochs", type=NUMBER, help="Passes over the images.", show_default=FROM_RECIPE)
@option("--batch-size", type=COUNT, metavar="N", help="Images per optimizer step.", show_default=FROM_RECIPE)
@option("--lr", type=NUMBER, help="Peak learning rate.", show_default=FROM_RECIPE)
@option("--ema", type=NUMBER, help="Decay of the weights' moving average.", show_default=OFF)
@option("--precision", metavar="NAME", help="auto, fp32, bf16 or fp16.", show_default=FROM_RECIPE)
@option("--augment", metavar="NAME", help="none, digits or photos.", show_default=FROM_RECIPE)
@option("--class-weights", metavar="NAME", default="none", help="Loss weights: none or balanced.")
@option("--freeze", is_flag=True, help="Train the last layer only; needs --weights.")
@option("--patience", type=COUNT, metavar="N", help="Stop N epochs after the best one.", show_default=OFF)
@option("--seed", type=Number(int, 0, 2**63 - 1), metavar="N", default=0, help="Random seed.")
@device_option
@option("--out", type=PATH, help="Run folder to write.", show_default="runs/ARCH")
@option("--resume", is_flag=True, help="Continue an interrupted run in the run folder.")
@option("--compile", is_flag=True, help="Use torch.compile, which starts slowly.")
@option("--deterministic", is_flag=True, help="Use deterministic, slower algorithms on CUDA.")
@option("--no-export-check", "unchecked", is_flag=True, help="Skip the trial export before the training.")
@option("--tensorboard", is_flag=True, help="Also write TensorBoard logs to the run folder.")
@max_bytes_option
@max_pixels_option
@json_option
def train(arch: str, out: Path | None, unchecked: bool, as_json: bool, **options: Any) -> None:
    """Train a network and write its weights to a run folder.

    The run folder receives model.safetensors (weights, labels, image size), metrics.csv, run.json and plots.

    ARCH is a netkit network, torchvision/NAME, timm/NAME, or MODULE:CLASS for your own nn.Module. DATA is mnist,
    digits, a folder with one subfolder of images per class, a folder with files in MNIST's format, or a .csv or .tsv
    file with the columns path, label and optionally split (train, val or test). Instead of class folders, a folder may
    contain train/ and one or both of val/ and test/, each with one subfolder per class. If DATA has a validation split
    but no test split, the validation split is also the test set. If it has neither, the share --val-split of each class
    is held out as the test set.

    netkit calls CLASS with channels, classes and size=(height, width). MNIST is downloaded once, to $NETKIT_DATA/mnist,
    or to netkit's cache folder if NETKIT_DATA is not set.

    The network is first exported in memory, before it is trained. If that fails, no training starts.

    Unreadable images are skipped. Training does not start if more than 5 images, and more than the share
    --max-unreadable of all images, are unreadable. With --max-unreadable 0, one is enough.

    The recipe fast is SGD and Muon with 8 epochs, batch size 128, learning rate 0.1 and precision auto: bf16 if the
    hardware supports it, else fp32. The recipe baseline is SGD with 10 epochs, batch size 64, learning rate 0.01 and
    fp32. With few images, both train more epochs, up to 100. The recipe fast
    augments color images like --augment photos and grey images like --augment digits. The recipe baseline does not
    augment images. --ema 0.999 turns on an exponential moving average of the weights with decay 0.999 per step.

    Images are stretched to --image-size. With --resize N, netkit instead scales the shorter side to N pixels and crops
    the center to --image-size.

    In the name of the folder runs/ARCH, - replaces each /, : and . of ARCH.

    \b
    Example: netkit train --arch residual --data photos/ --image-size 64
    """
    from netkit.nets.training import distributed

    ranks = distributed.from_environment()
    terminal = open_terminal(quiet=not ranks.is_main)
    hidden: EpochMetrics | None = None  # the latest epoch, if its line was not printed

    announced = 1  # epochs between two lines, as printed

    def on_epoch(metrics: EpochMetrics) -> None:
        """Print at most 10 lines for each power of 10. A terminal has the progress bar instead."""
        nonlocal hidden, announced
        hidden = metrics
        interval = 10 ** (len(str(metrics.epoch)) - 1)
        if terminal.is_interactive:
            return
        if metrics.epoch % interval == 0:
            terminal.print(f"epoch {metrics}")
            hidden = None
        elif interval != announced:
            terminal.print(
                f"from epoch {metrics.epoch} on, every {interval}th epoch is printed, each with its own time"
            )
            announced = interval

    try:
        with progress_bar(arch, console=terminal) as progress:
            run = netkit.train(
                arch,
                out=out,
                export_check=not unchecked,
                progress=progress,
                on_epoch=on_epoch,
                stop_on_signal=True,
                **options,
            )
        if hidden:
            terminal.print(f"epoch {hidden}")
    except (Interrupted, TrainingError) as exc:
        if ranks.is_main:  # all processes stop, and only the first one prints the message
            fail(str(exc), exc.exit_code)
            if isinstance(exc, Interrupted):
                hints.suggest_again(resume=True, launcher=ranks.launcher())
        click.get_current_context().exit(exc.exit_code)
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
