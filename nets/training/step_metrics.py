"""Loss and accuracy while an epoch is in progress, read without making a GPU wait."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from netkit.core.errors import TrainingError
from netkit.nets.training.schedule import EpochSchedule

COPY_EVERY = 10  # steps between two copies from a GPU


class StepMetrics(NamedTuple):
    """The loss of the latest batch, and the accuracy over the epoch's images so far, in [0, 1]."""

    epoch: int
    loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"epoch {self.epoch}, loss {self.loss:.3f}, train {self.accuracy:.2%}"


class AsyncScalars:
    """Copies numbers from the training device to the host: from a GPU asynchronously, from the CPU at once."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def send(self, step: int, scalars: Tensor, *, always: bool) -> None:
        """Start to copy the `scalars` (n,) of that step; from a GPU only every COPY_EVERY steps, or with `always`."""
        if not self._on_gpu:
            self._pending.append((step, scalars, None))
        elif always or step % COPY_EVERY == 0:
            on_host = torch.empty_like(scalars, device="cpu", pin_memory=True).copy_(scalars, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending.append((step, on_host, event))

    def received(self, *, wait: bool) -> Iterator[tuple[int, list[float]]]:
        """Steps and their scalars that have arrived since the last call, in order; with `wait` all that were sent."""
        while self._pending:
            step, scalars, event = self._pending[0]
            if event and wait:
                event.synchronize()
            if event and not event.query():
                return
            self._pending.popleft()
            yield step, scalars.tolist()


class RunningMetrics:
    """Sums the losses and the correct predictions of the epoch in progress, on the device."""

    def __init__(self, schedule: EpochSchedule, *, batch_size: int, device: torch.device) -> None:
        self._schedule, self._batch_size = schedule, batch_size
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct predictions
        self._scalars = AsyncScalars(device)

    def add(self, step: int, losses: Tensor, correct: Tensor) -> None:
        """Add the losses (n,) of the step's batch; `correct` (n,) is 1 where the prediction is."""
        self._sums += torch.stack([losses.sum(dtype=torch.float64), correct.sum(dtype=torch.float64)])
        latest = torch.stack([losses.mean(), self._sums[1]])
        self._scalars.send(step, latest, always=self._schedule.ends_epoch(step))

    def latest(self, *, wait: bool) -> StepMetrics | None:
        """The metrics of the latest step that have reached the host, or None if there are no new ones.

        Raises TrainingError if a loss is NaN or infinite.
        """
        metrics = None
        for step, (loss, correct) in self._scalars.received(wait=wait):
            if not math.isfinite(loss):
                raise diverged(f"the loss became {loss}", step, self._schedule)
            epoch, steps_before = self._schedule.position(step - 1)
            images = min((steps_before + 1) * self._batch_size, self._schedule.images_in(epoch))
            metrics = StepMetrics(epoch, loss, correct / images)
        return metrics

    def end_epoch(self, images: int) -> tuple[float, float]:
        """Mean loss and accuracy over the `images` of the epoch; the next epoch starts from zero."""
        loss, accuracy = (self._sums / images).tolist()
        self._sums.zero_()
        return loss, accuracy

    def tensors(self) -> dict[str, Tensor]:
        """All state, for a snapshot. The tensors are those in use."""
        return {"sums": self._sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state from a snapshot's tensors."""
        self._sums.copy_(tensors["sums"])


def diverged(what: str, step: int, schedule: EpochSchedule) -> TrainingError:
    """The error for a training that diverged, with the step and its learning rate."""
    lr = schedule.lr_at(step)
    return TrainingError(f"{what} at step {step} of {schedule.steps}, at a learning rate of {lr:.3g}; lower --lr")
