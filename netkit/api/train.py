"""netkit.train: train a network on a data set and write a run folder."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from netkit.api.arguments import check_device
from netkit.api.progress import reporting
from netkit.core.errors import Interrupted, ModelError, unknown_name
from netkit.core.model_card import ModelCard
from netkit.core.progress import Progress, cumulative
from netkit.core.runs import required_channels, run_folder
from netkit.data import registry
from netkit.data.options import AUTO, DEFAULT, MAX_UNREADABLE, VAL_SPLIT, Options
from netkit.images.limits import MAX_FILE_BYTES, MAX_PIXELS
from netkit.nets import external
from netkit.nets.training import run, stopping
from netkit.nets.training.augment import has_color
from netkit.nets.training.metrics import EpochMetrics
from netkit.nets.training.plan import Callbacks, Plan
from netkit.nets.training.recipe import CLASS_WEIGHTS, recipe_named
from netkit.nets.training.run import TrainedRun
from netkit.nets.training.schedule import EpochSchedule, with_min_steps

logger = logging.getLogger(__name__)


def train(
    arch: str = "inception",
    *,
    data: str | Path = "mnist",
    out: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    val_split: float = VAL_SPLIT,
    layout: str = AUTO,
    path_column: str = DEFAULT.path_column,
    label_column: str = DEFAULT.label_column,
    max_unreadable: float = MAX_UNREADABLE,
    weights: str | Path | None = None,
    recipe: str = "fast",
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    ema: float | None = None,
    precision: str | None = None,
    augment: str | None = None,
    class_weights: str = "none",
    freeze: bool = False,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    compile: bool = False,
    deterministic: bool = False,
    tensorboard: bool = False,
    export_check: bool = True,
    max_bytes: int = MAX_FILE_BYTES,
    max_pixels: int = MAX_PIXELS,
    progress: bool | Progress = False,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    stop_on_signal: bool = False,
) -> TrainedRun:
    """Train a network and write its weights, metrics, plots and run.json to a run folder.

    Args:
        arch: Name of a netkit architecture, `torchvision/NAME`, `timm/NAME` (needs the extra [timm]), or
            `MODULE:CLASS` for your own nn.Module. For `timm/NAME`, timm's size, mean and std of the input are the
            defaults of `image_size`, `mean` and `std`.
        data: `mnist`, `digits`, a folder with one subfolder of images per class, a folder with files in MNIST's
            format, or a .csv or .tsv file with the columns `path`, `label` and optionally `split`. A folder may contain
            one folder per split: train, and val, test or both, or similar names such as Training and valid.
        out: Run folder to write. By default `runs/<arch>`.
        image_size: Size of the network's input in pixels, one number or (height, width). By default the size of the
            images, if they all have the same size.
        resize: Scale the shorter side of each image to this many pixels, then crop the center to `image_size`. By
            default images are stretched to `image_size`.
        channels: 1 for grey or 3 for RGB. By default 1 if all images are grey, otherwise 3;
            always 3 for `torchvision/NAME` and `timm/NAME`.
        mean: Mean per channel, of pixels in [0, 1]. By default computed from the training images.
        std: Standard deviation per channel, of pixels in [0, 1]. By default computed from the training images.
        val_split: Fraction of each class to hold out for testing, between 0 and 1, if the data set has no test images.
        layout: What the folders in `data` are: `splits`, `classes`, or `auto` to judge by their names.
        path_column: Column of a table with the paths of the images.
        label_column: Column of a table with their labels.
        max_unreadable: Fraction of unreadable images to skip before training fails. Up to 5 images are always skipped,
            unless it is 0.
        weights: Path of a .safetensors file with initial weights.
        recipe: Name of the training recipe: `fast` or `baseline`. The arguments from `epochs` to `patience` override
            its values.
        epochs: Number of passes over the training images; may be fractional. A small data set gets more passes by
            default than the recipe says, up to 100.
        batch_size: Number of images per optimizer step.
        lr: Peak learning rate.
        ema: Decay of the moving average of the weights per step, at least 0 and below 1. 0 turns averaging off.
        precision: `fp32`, `bf16`, `fp16`, or `auto` for bf16 if the hardware supports it.
        augment: `digits` for small shifts, rotations, scalings and shears; `photos` for crops, horizontal flips and
            changes of brightness, contrast and saturation; or `none`. By default the recipe `fast` uses `photos` if the
            images have color and `digits` if they are grey, and `baseline` uses `none`.
        class_weights: `balanced` to weigh the loss of each image inversely to the frequency of its class, or `none`.
        freeze: Train the last layer only, and keep the other layers of `weights`.
        patience: Stop after this number of epochs without a better validation accuracy. Needs a data set with
            validation images.
        seed: Random seed. It also selects the images that `val_split` holds out.
        device: `auto`, `cpu` or `cuda`.
        resume: Continue an interrupted run in `out`. The final weights are bit-identical to those of a run that was
            not interrupted.
        compile: Compile the training step with torch.compile.
        deterministic: Use deterministic algorithms on CUDA. On the CPU, training is always deterministic.
        tensorboard: Also write TensorBoard logs to the run folder.
        export_check: Export the network in memory before the training, to find out whether it can be exported. Needs
            ONNX Runtime; without it, a message is logged.
        max_bytes: Largest image file to read, in bytes.
        max_pixels: Largest image to decode, in pixels.
        progress: True for a progress bar, or a function that is called with the number of images done, their total
            and a note.
        on_epoch: Function that is called with the metrics of each epoch.
        stop_on_signal: On the first SIGINT or SIGTERM, finish the step, save the state and raise Interrupted. Works
            only in the main thread.

    Returns:
        The path of the weights and their model card, which holds the test accuracy as a fraction from 0 to 1.

    Raises:
        UsageError: A name, path or value is invalid, or the run to resume was started with other arguments.
        DataError: The data set is missing or damaged.
        DeviceError: The device cannot be used.
        ModelError: The network cannot be exported; see `export_check`.
        TrainingError: The loss is NaN or infinite.
        Interrupted: A signal stopped training; see `stop_on_signal`.

    Example:
        >>> run = netkit.train("residual", data="digits", epochs=2)
        >>> run.weights.as_posix()
        'runs/residual/model.safetensors'
        >>> run.card.origin.test_accuracy > 0.5
        True
    """
    check_device(device)
    changes = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "ema": ema, "precision": precision}
    overrides: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if class_weights not in CLASS_WEIGHTS:
        raise unknown_name("class weights", class_weights, CLASS_WEIGHTS)
    overrides |= {"balanced": class_weights == "balanced", "freeze": freeze, "patience": patience or 0}
    chosen_recipe = replace(recipe_named(recipe, arch=arch), **overrides)
    if augment is not None:
        chosen_recipe = chosen_recipe.with_augmentation(augment)
    if (config := external.input_config(arch)) is not None:
        image_size, mean, std = image_size or config.size, mean or config.mean, std or config.std
    options = Options(
        channels=required_channels(arch) if channels is None else channels,
        size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        resize=resize,
        mean=tuple(mean or ()),
        std=tuple(std or ()),
        val_split=val_split,
        seed=seed,
        layout=layout,
        path_column=path_column,
        label_column=label_column,
        max_unreadable=max_unreadable,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
    )
    registry.require_fitting(str(data), options.reading)
    data_set = registry.load(str(data), options)
    if augment is None and chosen_recipe.translate and has_color(data_set.train_images):
        chosen_recipe = chosen_recipe.with_augmentation("photos")
    images, note = len(data_set.train_labels), ""
    if epochs is None:
        chosen_recipe, note = with_min_steps(chosen_recipe, images)
    plan = Plan(
        arch=arch,
        recipe=chosen_recipe,
        seed=seed,
        device=device,
        out=Path(out) if out is not None else run_folder(arch),
        resume=resume,
        compiled=compile,
        deterministic=deterministic,
        tensorboard=tensorboard,
        weights=Path(weights) if weights is not None else None,
        note=note,
    )
    signals: AbstractContextManager[Callable[[], int | None]]
    signals = stopping.delayed_signals() if stop_on_signal else nullcontext(lambda: None)
    with signals as stop, reporting(progress, arch) as report:
        callbacks = Callbacks(
            on_network=partial(_try_export, stop=stop) if export_check else (lambda net, card: None),
            on_step=cumulative(report, EpochSchedule(chosen_recipe, images).images),
            on_epoch=on_epoch or (lambda metrics: None),
            stop=stop,
        )
        return run.train(plan, data_set, callbacks)


def _try_export(net: nn.Module, card: ModelCard, *, stop: Callable[[], int | None]) -> None:
    """Raise ModelError if the network, before its training, cannot be exported; Interrupted if `stop` has a signal."""
    if find_spec("onnxruntime") is None:
        logger.info("the export was not tried, because ONNX Runtime is not installed; install netkit's extra [cpu]")
        return
    from netkit.export.dry_run import dry_run  # imports torch's exporter

    logger.info("%s: trying the export before the training", card.arch)
    try:
        dry_run(net, card)
    except ModelError as exc:
        raise ModelError(f"{exc}; to train it all the same, pass --no-export-check") from None
    if (signal_number := stop()) is not None:  # before the run replaces the saved state of an earlier one
        raise Interrupted("stopped before the first step", signal_number)
