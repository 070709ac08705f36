"""The training loop: data resident on the device as uint8 where it fits, one permutation an epoch.

The order of the images and what augmentation does to them are functions of the seed and the epoch, not of what came
before: a training that stopped anywhere goes on as if it never had.
"""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from netkit.core.errors import TrainingError
from netkit.data.dataset import DataSet
from netkit.nets.normalize import FromPixels
from netkit.nets.training.augment import draw_maps, warp
from netkit.nets.training.device import DTYPES, choose_precision
from netkit.nets.training.distributed import ALONE, Ranks
from netkit.nets.training.feed import Feed
from netkit.nets.training.metrics import EpochMetrics, evaluate
from netkit.nets.training.optim import Optimizer
from netkit.nets.training.recipe import Recipe
from netkit.nets.training.schedule import Timetable
from netkit.nets.training.step_metrics import Courier, Glance


class Snapshot(NamedTuple):
    """A training between two steps: what a resumed one needs, beside its arguments, to go on bit for bit.

    `scaler` is the state of float16's loss scaling, empty in other precisions.
    """

    tensors: dict[str, Tensor]
    step: int
    rows: tuple[EpochMetrics, ...]
    scaler: dict[str, Any]


class Training:
    """A net in training: its weights, and all else on which the next step depends.

    `rows` are the metrics of the epochs that have ended; `step` counts the steps done. Between two steps a snapshot can
    be taken, and another Training with the same arguments that restores it does bit for bit what this one would do.
    """

    def __init__(
        self,
        model: FromPixels,
        data: DataSet,
        *,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
        compiled: bool = False,
    ) -> None:
        self.recipe, self.seed, self.device, self.ranks = recipe, seed, device, ranks
        self.model = model.to(device)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.train_images, self.test_images = Feed(data.train_images, device), Feed(data.test_images, device)
        self.train_labels, self.test_labels = (
            torch.tensor(labels, device=device) for labels in (data.train_labels, data.test_labels)
        )
        self.timetable = Timetable(recipe, len(data.train_labels))
        self.step = 0
        self.rows: list[EpochMetrics] = []
        # each image's loss when it was last learnt from, before this epoch, and in it
        self._losses, self._fresh = torch.zeros(2, len(data.train_labels), device=device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # of this epoch: losses, right answers
        self._courier = Courier(device)
        self._dtype = DTYPES[choose_precision(recipe.precision, device)]
        self._optimizer = Optimizer(self.model, recipe, device=device, scaled=self._dtype == torch.float16)
        average = get_ema_multi_avg_fn(recipe.ema)
        self._average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True) if recipe.ema else None
        parallel: nn.Module = DistributedDataParallel(self.model) if ranks.count > 1 else self.model
        self._forward = torch.compile(parallel) if compiled else parallel

    @property
    def result(self) -> FromPixels:
        """The model that counts: the weights' average where the recipe keeps one."""
        return self._average.module if self._average else self.model  # type: ignore[return-value]  # a copy of it

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self._lr_of(self.step)

    @property
    def steps(self) -> int:
        """How many there are in all."""
        return self.timetable.steps

    def snapshot(self) -> Snapshot:
        """All on which the next step depends. Its tensors are those in use: write them before the next step.

        Raises TrainingError where a weight is no number any more: nothing could go on from there.
        """
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise self._astray("a weight became no number", self.step)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in self._optimizer.momenta().items()}
        tensors |= {"losses": self._losses, "fresh": self._fresh, "sums": self._sums}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return Snapshot(tensors, self.step, tuple(self.rows), self._optimizer.scaling())

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there. Raises KeyError or RuntimeError where the tensors are not those of this net and recipe."""

        def part(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {n.removeprefix(start): t for n, t in snapshot.tensors.items() if n.startswith(start)}

        self.model.load_state_dict(part("model"))
        if self._average:
            self._average.load_state_dict(part("average"))
        self._optimizer.restore(part("momentum"), snapshot.scaler)
        self._losses.copy_(snapshot.tensors["losses"])
        self._fresh.copy_(snapshot.tensors["fresh"])
        self._sums.copy_(snapshot.tensors["sums"])
        torch.set_rng_state(snapshot.tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(snapshot.tensors["random.cuda"], self.device)
        self.step, self.rows = snapshot.step, list(snapshot.rows)

    def run(self) -> Iterator[Glance | None]:
        """Train to the end, one step between two values: the latest glance, or None where there is no new one.

        Raises TrainingError where the loss is no number any more.
        """
        count, _, height, width = self.train_images.shape
        while self.step < self.steps:
            epoch, begun = self.timetable.place(self.step)
            started = time.monotonic()
            order = self._order(epoch)
            maps = draw_maps(count, height, width, recipe=self.recipe, seed=self.seed, epoch=epoch)
            maps = None if maps is None else maps.to(self.device)
            batches = order.split(self.recipe.batch_size)[begun:]
            shares = [self.ranks.share(rows) for rows in batches]
            fed = self.train_images.batches(share for share, _ in shares)
            for rows, (share, weight), images in zip(batches, shares, fed, strict=True):
                if maps is not None:
                    images = warp(images, maps[share])
                self._fresh[rows] = self.learn(images, self.train_labels[share], weight=weight, whole=len(rows))
                ended = self.timetable.ends_an_epoch(self.step)
                # several ranks wait for it, so that all look at the same steps, where they agree on whether to stop
                glance = self._look(wait=ended or self.ranks.count > 1)
                if ended:
                    self._end_epoch(epoch, order, started)
                yield glance

    def _order(self, epoch: int) -> Tensor:
        """Which images the epoch learns from, as indices, in their order."""
        count = len(self.train_labels)
        order = permutation(count, seed=self.seed, epoch=epoch).to(self.device)
        choice = self.recipe.choice_in(epoch, count)
        if choice < count:
            hardest = self._losses.argsort(descending=True, stable=True)[:choice]
            among_them = torch.zeros(count, dtype=torch.bool, device=self.device)
            among_them[hardest] = True
            order = order[among_them[order]]
        return order[: self.timetable.images_in(epoch)]

    def learn(self, images: Tensor, labels: Tensor, *, weight: int, whole: int) -> Tensor:
        """One step on this rank's share, of that weight, of a batch of `whole` images; gives all losses (whole,).

        Images are (N, channels, height, width) from 0 to 255, labels int64 (N,), both on the device.
        """
        self.model.train()
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self._forward(images)
        smoothing = self.recipe.label_smoothing
        losses = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="none")
        self.step += 1
        # ranks average their gradients: each counts its own losses as often as there are ranks
        self._optimizer.step(losses.sum() * (weight * self.ranks.count / whole), lr=self.lr)
        if self._average:
            self._average.update_parameters(self.model)
        right = logits.argmax(dim=1) == labels
        losses, right = self.ranks.whole(torch.stack([losses.detach(), right]), whole)
        self._sums += torch.stack([losses.sum(dtype=torch.float64), right.sum(dtype=torch.float64)])
        seen = torch.stack([losses.mean(), self._sums[1]])
        self._courier.send(self.step, seen, at_once=self.timetable.ends_an_epoch(self.step))
        return losses

    def _look(self, *, wait: bool) -> Glance | None:
        glance = None
        for step, (loss, right) in self._courier.arrived(wait=wait):
            if not math.isfinite(loss):
                raise self._astray(f"the loss became {loss}", step)
            epoch, before = self.timetable.place(step - 1)
            seen = min((before + 1) * self.recipe.batch_size, self.timetable.images_in(epoch))
            glance = Glance(epoch, loss, right / seen)
        return glance

    def _lr_of(self, step: int) -> float:
        return self.recipe.lr_at(step - 1, self.steps)

    def _astray(self, what: str, step: int) -> TrainingError:
        lr = self._lr_of(step)
        return TrainingError(f"{what} at step {step} of {self.steps}, at a learning rate of {lr:.3g}; lower --lr")

    def _end_epoch(self, epoch: int, order: Tensor, started: float) -> None:
        train_loss, train_accuracy = (self._sums / len(order)).tolist()
        self._sums.zero_()
        self._losses[order] = self._fresh[order]
        self._fresh.zero_()
        # float16 on a CPU is 30 times slower than float32
        rough = self.step < self.steps and self._dtype == torch.bfloat16
        test_loss, test_accuracy = evaluate(
            self.result, self.test_images, self.test_labels, self._dtype if rough else torch.float32
        )
        if not math.isfinite(test_loss):
            raise self._astray(f"the test loss became {test_loss}", self.step)
        seconds = time.monotonic() - started
        self.rows.append(
            EpochMetrics(epoch, self.step, self.lr, train_loss, train_accuracy, test_loss, test_accuracy, seconds)
        )


def permutation(count: int, *, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in that epoch: the same for the same seed and epoch, whatever came before."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))
