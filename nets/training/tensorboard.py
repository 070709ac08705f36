"""TensorBoard logs of a run: the loss of each step that was looked at, and the metrics of each epoch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from netkit.core.runs import LOGS
from netkit.nets.training.metrics import EpochMetrics


class Board:
    """The logs in the folder `run`, begun, or gone on with after `step` steps. Raises OSError that names it."""

    def __init__(self, run: Path, *, step: int, recipe: str) -> None:
        self._folder = run / LOGS
        with self._faults_named():
            self._writer = SummaryWriter(self._folder, purge_step=step + 1 if step else None)
            if not step:
                self._writer.add_text("recipe", recipe)

    def step(self, step: int, *, loss: float, lr: float) -> None:
        with self._faults_named():
            self._writer.add_scalar("step/loss", loss, step)
            self._writer.add_scalar("step/lr", lr, step)

    def epoch(self, row: EpochMetrics) -> None:
        with self._faults_named():
            for part in ("train", "test"):
                for what in ("loss", "accuracy"):
                    self._writer.add_scalar(f"{part}/{what}", getattr(row, f"{part}_{what}"), row.step)

    def close(self) -> None:
        with self._faults_named():
            self._writer.close()

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:  # of a thread of the writer's, which knows no path
            raise OSError(fault.errno, fault.strerror, str(self._folder)) from None
