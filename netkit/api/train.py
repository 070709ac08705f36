"""netkit.train: from the name of an architecture and a data set to a run folder."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from netkit.api.arguments import check_device
from netkit.api.progress import reporting
from netkit.core.progress import Progress, counted
from netkit.core.runs import required_channels, run_folder
from netkit.data import registry
from netkit.data.options import VAL_SPLIT, Options
from netkit.nets.training import run, stopping
from netkit.nets.training.metrics import EpochMetrics
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import TrainedRun
from netkit.nets.training.schedule import EpochSchedule


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
    weights: str | Path | None = None,
    recipe: str = "fast",
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    ema: float | None = None,
    precision: str | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    compile: bool = False,
    deterministic: bool = False,
    tensorboard: bool = False,
    progress: bool | Progress = False,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    stop_on_signal: bool = False,
) -> TrainedRun:
    """Train a network and leave weights, metrics, plots and run.json in a folder.

    Args:
        arch: Name of a netkit architecture, `torchvision/NAME`, or `MODULE:CLASS` for a class of your own.
        data: `mnist`, `digits`, a folder with one folder of images per class, a folder with files in MNIST's format,
            or a .csv file with the columns `path`, `label` and optionally `split`.
        out: Folder of the run; by default `runs/<arch>`.
        image_size: Size in pixels that images are scaled to, one number or (height, width); by default the size that
            all images have.
        resize: Length in pixels to which the shorter side is scaled before `image_size` is cut from the middle.
        channels: 1 for grey, 3 for RGB; by default as the images are.
        mean: Mean of each channel, for pixels in [0, 1]; by default computed from the training images.
        std: Standard deviation of each channel, likewise.
        val_split: Share of each class that is held out for testing, where the data set has no test images.
        weights: A .safetensors file with the weights to start from.
        recipe: Name of the training recipe. `epochs`, `batch_size`, `lr` (the peak learning rate), `ema` (decay of the
            averaged weights, 0 for none) and `precision` (`auto`, `fp32`, `bf16`, `fp16`) override its values.
        seed: Seed of all randomness.
        device: `auto`, `cpu` or `cuda`.
        resume: Continue the run in `out` if it was stopped, to the same bits as without the stop.
        compile: Compile the training step with torch.compile.
        deterministic: Use deterministic algorithms on CUDA, too.
        tensorboard: Write logs for TensorBoard into the run folder.
        progress: True for a progress bar, or a function that is called with the number of images done, their total,
            and a note.
        on_epoch: Called with the metrics of each epoch.
        stop_on_signal: On the first SIGINT or SIGTERM, end the step, save the state and raise Interrupted. Works in the
            main thread only.

    Returns:
        The weights file and its model card, which holds the test accuracy, from 0 to 1.

    Raises:
        UsageError: A name, path or value is wrong, or the run to resume had other arguments.
        DataError: The data set is missing or damaged.
        DeviceError: The device cannot be used.
        TrainingError: The loss is NaN or infinite.
        Interrupted: A signal stopped the training; see `stop_on_signal`.

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
    chosen_recipe = replace(recipe_named(recipe, arch=arch), **overrides)
    options = Options(
        channels=required_channels(arch) if channels is None else channels,
        size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        resize=resize,
        mean=tuple(mean or ()),
        std=tuple(std or ()),
        val_split=val_split,
        seed=seed,
    )
    data_set = registry.load(str(data), options)
    images = len(data_set.train_labels)
    if epochs is None:
        chosen_recipe = chosen_recipe.stretched_to(images)
    plan = run.Plan(
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
    )
    signals: AbstractContextManager[Callable[[], int | None]]
    signals = stopping.noted() if stop_on_signal else nullcontext(lambda: None)
    with signals as stop, reporting(progress, arch) as report:
        callbacks = run.Callbacks(
            on_step=counted(report, EpochSchedule(chosen_recipe, images).images),
            on_epoch=on_epoch or (lambda metrics: None),
            stop=stop,
        )
        return run.train(plan, data_set, callbacks)
