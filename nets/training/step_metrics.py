"""The loss of each step, copied from a GPU asynchronously."""

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from netkit.core.errors import TrainingError
from netkit.nets.training.schedule import EpochSchedule

COPY_EVERY_STEPS = 10  # on a GPU


class StepMetrics(NamedTuple):
    """The epoch of a step, and the mean loss of its batch."""

    epoch: int
    loss: float

    def __str__(self) -> str:
        return f"epoch {self.epoch}, loss {self.loss:.3f}"


class AsyncLosses:
    """Copies the loss of each step from the training device to the host. Copies from a GPU are asynchronous."""

    def __init__(self, schedule: EpochSchedule, device: torch.device) -> None:
        self._schedule = schedule
        self._on_gpu = device.type == "cuda"
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def send(self, step: int, loss: Tensor) -> None:
        """Start to copy the loss of a step; on a GPU only every COPY_EVERY_STEPS steps and at the end of an epoch."""
        if not self._on_gpu:
            self._pending.append((step, loss, None))
        elif step % COPY_EVERY_STEPS == 0 or self._schedule.ends_epoch(step):
            on_host = torch.empty_like(loss, device="cpu", pin_memory=True).copy_(loss, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending.append((step, on_host, event))

    def latest(self, *, wait: bool) -> StepMetrics | None:
        """Return the latest loss that arrived since the last call, or None. With `wait`, wait for all copies.

        Raises TrainingError if a loss is NaN or infinite.
        """
        metrics = None
        while self._pending:
            step, pending, event = self._pending[0]
            if event and wait:
                event.synchronize()
            if event and not event.query():
                break
            self._pending.popleft()
            loss = pending.item()
            if not math.isfinite(loss) and step == 1:
                raise TrainingError(
                    f"the loss is {loss} before any weight changed; the network divides by 0, or --std is too small"
                )
            if not math.isfinite(loss):
                raise divergence_error(f"the loss became {loss}", step, self._schedule)
            metrics = StepMetrics(self._schedule.position(step - 1).epoch, loss)
        return metrics


def divergence_error(problem: str, step: int, schedule: EpochSchedule) -> TrainingError:
    """Create the exception for a training run that diverged, with the step and its learning rate in the message."""
    lr = schedule.lr_at(step)
    return TrainingError(f"{problem} at step {step} of {schedule.steps}, at a learning rate of {lr:.3g}; lower --lr")
