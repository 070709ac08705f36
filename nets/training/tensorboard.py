"""TensorBoard logs of a run: the loss of each step that was looked at, and the metrics of each epoch."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from nets.training.metrics import EpochMetrics

FOLDER = "tensorboard"  # in the run's
LOGS = "events.out.tfevents.*"


class Board:
    """The logs in the folder `run`, begun anew, or gone on with after `step` steps."""

    def __init__(self, run: Path, *, step: int, recipe: str) -> None:
        folder = run / FOLDER
        if not step:
            for log in folder.glob(LOGS):  # of the run that this one replaces: TensorBoard would mix their curves
                log.unlink()
        self._writer = SummaryWriter(folder, purge_step=step + 1 if step else None)
        if not step:
            self._writer.add_text("recipe", recipe)

    def step(self, step: int, *, loss: float, lr: float) -> None:
        self._writer.add_scalar("step/loss", loss, step)
        self._writer.add_scalar("step/lr", lr, step)

    def epoch(self, row: EpochMetrics) -> None:
        for part in ("train", "test"):
            for what in ("loss", "accuracy"):
                self._writer.add_scalar(f"{part}/{what}", getattr(row, f"{part}_{what}"), row.step)

    def close(self) -> None:
        self._writer.close()
