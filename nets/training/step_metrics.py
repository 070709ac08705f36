"""Loss and accuracy during an epoch, copied from a GPU asynchronously."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from netkit.core.errors import TrainingError
from netkit.nets.training.schedule import EpochSchedule

COPY_EVERY_STEPS = 10  # on a GPU


class StepMetrics(NamedTuple):
    """The loss of the latest batch, and the training accuracy of the epoch so far, in [0, 1]."""

    epoch: int
    loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"epoch {self.epoch}, loss {self.loss:.3f}, train accuracy {self.accuracy:.2%}"


class AsyncScalars:
    """Copies scalars from the training device to the host. Copies from a GPU are asynchronous."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def send(self, step: int, scalars: Tensor, *, always: bool) -> None:
        """Start to copy the `scalars` (n,) of a step; on a GPU only every COPY_EVERY_STEPS steps, or if `always`."""
        if not self._on_gpu:
            self._pending.append((step, scalars, None))
        elif always or step % COPY_EVERY_STEPS == 0:
            on_host = torch.empty_like(scalars, device="cpu", pin_memory=True).copy_(scalars, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending.append((step, on_host, event))

    def received(self, *, wait: bool) -> Iterator[tuple[int, list[float]]]:
        """Yield the steps and scalars that arrived since the last call, in order. With `wait`, wait for all copies."""
        while self._pending:
            step, scalars, event = self._pending[0]
            if event and wait:
                event.synchronize()
            if event and not event.query():
                return
            self._pending.popleft()
            yield step, scalars.tolist()


class RunningMetrics:
    """Sums the losses and the correct predictions of the current epoch on the device."""

    def __init__(self, schedule: EpochSchedule, *, batch_size: int, device: torch.device) -> None:
        self._schedule, self._batch_size = schedule, batch_size
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct predictions
        self._scalars = AsyncScalars(device)

    def add(self, step: int, losses: Tensor, correct: Tensor) -> None:
        """Add the losses (n,) of the step's batch; `correct` (n,) is 1 where the prediction is correct."""
        self._sums += torch.stack([losses.sum(dtype=torch.float64), correct.sum(dtype=torch.float64)])
        latest = torch.stack([losses.mean(), self._sums[1]])
        self._scalars.send(step, latest, always=self._schedule.ends_epoch(step))

    def latest(self, *, wait: bool) -> StepMetrics | None:
        """Return the latest metrics that arrived on the host, or None if there are no new ones.

        Raises TrainingError if a loss is NaN or infinite.
        """
        metrics = None
        for step, (loss, correct) in self._scalars.received(wait=wait):
            if not math.isfinite(loss):
                raise divergence_error(f"the loss became {loss}", step, self._schedule)
            epoch, steps_before = self._schedule.position(step - 1)
            images = min((steps_before + 1) * self._batch_size, self._schedule.images_in(epoch))
            metrics = StepMetrics(epoch, loss, correct / images)
        return metrics

    def end_epoch(self, images: int) -> tuple[float, float]:
        """Return mean loss and accuracy over the `images` of the epoch, and reset the sums."""
        loss, accuracy = (self._sums / images).tolist()
        self._sums.zero_()
        return loss, accuracy

    def tensors(self) -> dict[str, Tensor]:
        """Return all state, not copied, for a snapshot."""
        return {"sums": self._sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state from the tensors of a snapshot."""
        self._sums.copy_(tensors["sums"])


def divergence_error(problem: str, step: int, schedule: EpochSchedule) -> TrainingError:
    """Create the exception for a training run that diverged, with the step and its learning rate in the message."""
    lr = schedule.lr_at(step)
    return TrainingError(f"{problem} at step {step} of {schedule.steps}, at a learning rate of {lr:.3g}; lower --lr")
