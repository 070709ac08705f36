"""Glances at a training in passing, which make no GPU wait: numbers are read once they have arrived by themselves."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LOOK_EVERY = 10  # steps, on a GPU


class Glance(NamedTuple):
    """What is seen of an epoch in passing: the latest batch's loss, and the share of right answers so far."""

    epoch: int
    loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"epoch {self.epoch}, loss {self.loss:.3f}, train {self.accuracy:.2%}"


class Courier:
    """Brings numbers from the device where a net is trained: at once from a CPU, from a GPU when its work is done."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._under_way: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def send(self, step: int, numbers: Tensor, *, at_once: bool) -> None:
        """Set off with the `numbers` (n,) of that step; from a GPU only at each LOOK_EVERY-th step, or at once."""
        if not self._gpu:
            self._under_way.append((step, numbers, None))
        elif at_once or step % LOOK_EVERY == 0:
            here = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._under_way.append((step, here, event))

    def arrived(self, *, wait: bool) -> Iterator[tuple[int, list[float]]]:
        """Steps and their numbers, in order, as far as they have come; all that were sent where it is to wait."""
        while self._under_way:
            step, numbers, event = self._under_way[0]
            if event and wait:
                event.synchronize()
            if event and not event.query():
                return
            self._under_way.popleft()
            yield step, numbers.tolist()
