"""The arguments of a training run, and the functions that it calls."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import DataSet
from netkit.nets.training.metrics import EpochMetrics
from netkit.nets.training.recipe import Recipe

SAVE_EVERY_S = 15.0  # a killed run loses no more work than this


@dataclass(frozen=True)
class Plan:
    """The arguments of a run.

    Args:
        device: "auto", "cpu" or "cuda".
        out: folder of the run.
        resume: continue the run in `out` if it was stopped.
        tensorboard: also write TensorBoard logs.
        weights: a .safetensors file with initial weights; None for random ones.
        note: a message to log when the training starts; empty for none.
        save_every_s: seconds between two saved states within an epoch.
    """

    arch: str
    recipe: Recipe
    seed: int
    device: str
    out: Path
    resume: bool = False
    compiled: bool = False
    deterministic: bool = False
    tensorboard: bool = False
    weights: Path | None = None
    note: str = ""
    save_every_s: float = SAVE_EVERY_S

    def check(self, data: DataSet) -> None:
        """Raise UsageError if the data set or the weights do not fit the options of the plan, or `out` is a file."""
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out}: is a file; pass a folder")
        channels = data.train_images.shape[1]
        if data.fixed_mean_and_std and len(mean := data.fixed_mean_and_std[0]) != channels:
            raise UsageError(
                f"--mean and --std: pass one number per channel of the images ({channels}), not {len(mean)}"
            )
        if self.recipe.freeze and not self.weights:
            raise UsageError("--freeze trains the last layer only; pass the weights of the other layers with --weights")
        if self.recipe.patience and data.val_images is None:
            raise UsageError(
                f"--patience {self.recipe.patience} needs validation images, and {data.source} has none; "
                "add a folder val/ beside train/, or rows with the split val to a table"
            )


@dataclass(frozen=True)
class Callbacks:
    """Functions that `train` calls.

    Args:
        on_network: called in the main process with the network before training and its card, before the run writes
            anything. Not called if a saved state is resumed. If it raises an exception, no process trains.
        on_step: called with the number of images trained on since the last call, and the latest metrics as text.
        on_epoch: called with the metrics of each finished epoch.
        stop: returns the number of a signal to stop the run, or None.
    """

    on_network: Callable[[nn.Module, ModelCard], None] = lambda net, card: None
    on_step: Callable[[int, str], None] = lambda images, metrics: None
    on_epoch: Callable[[EpochMetrics], None] = lambda row: None
    stop: Callable[[], int | None] = lambda: None


NO_CALLBACKS = Callbacks()
