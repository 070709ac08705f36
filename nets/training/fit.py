"""The training loop: data resident on the device as uint8, one permutation an epoch, no per-image Python."""

import math
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from nets.data.dataset import DataSet
from nets.errors import TrainingError
from nets.pixels import FromPixels
from nets.training.device import choose_precision
from nets.training.metrics import EpochMetrics, evaluate
from nets.training.recipe import Recipe

REPORT_EVERY = 10  # steps; reading a loss off a GPU makes the loop wait

OnStep = Callable[[int, float], None]  # images trained on since the last call; loss of the latest batch


def fit(
    model: FromPixels, data: DataSet, *, recipe: Recipe, seed: int, device: torch.device, on_step: OnStep
) -> Iterator[EpochMetrics]:
    """Train `model` in place, and yield the metrics of each epoch as it ends.

    The order of the images is a function of `seed` and the epoch. The test columns are those of the weights at the
    epoch's end, in float32. Raises TrainingError where the loss becomes NaN or infinite.
    """
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    train_images, train_labels, test_images, test_labels = (
        torch.tensor(array, device=device)
        for array in (data.train_images, data.train_labels, data.test_images, data.test_labels)
    )
    steps_an_epoch = -(-len(train_images) // recipe.batch_size)
    optimizer = SGD(model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    scheduler = _scheduler(optimizer, recipe, steps=recipe.epochs * steps_an_epoch)
    for epoch in range(1, recipe.epochs + 1):
        started = time.monotonic()
        order = permutation(len(train_images), seed=seed, epoch=epoch).to(device)
        batches = ((train_images[rows], train_labels[rows]) for rows in order.split(recipe.batch_size))
        loss, accuracy, lr = _train_once(model, batches, recipe, optimizer, scheduler, on_step)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}, at a learning rate of up to {recipe.lr}; lower --lr"
            )
        test_loss, test_accuracy = evaluate(model, test_images, test_labels)
        seconds = time.monotonic() - started
        yield EpochMetrics(epoch, epoch * steps_an_epoch, lr, loss, accuracy, test_loss, test_accuracy, seconds)


def permutation(count: int, *, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in that epoch: the same for the same seed and epoch, whatever came before."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))


def _train_once(
    model: FromPixels,
    batches: Iterable[tuple[Tensor, Tensor]],
    recipe: Recipe,
    optimizer: SGD,
    scheduler: LRScheduler,
    on_step: OnStep,
) -> tuple[float, float, float]:
    """One epoch over `batches`; gives the mean loss, the accuracy, and the learning rate of the last step."""
    device = model.scale.device
    dtype = choose_precision(recipe.precision, device)
    loss_sum = torch.zeros((), device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    seen = reported = 0
    model.train()
    for step, (images, labels) in enumerate(batches, start=1):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if recipe.largest_gradient:
            clip_grad_norm_(model.parameters(), recipe.largest_gradient)
        optimizer.step()
        lr = optimizer.param_groups[0]["lr"]
        scheduler.step()
        loss_sum += loss.detach() * len(labels)
        right += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
        if step % REPORT_EVERY == 0:
            on_step(seen - reported, loss.item())
            reported = seen
    on_step(seen - reported, loss.item())
    return loss_sum.item() / seen, right.item() / seen, lr


def _scheduler(optimizer: SGD, recipe: Recipe, *, steps: int) -> LRScheduler:
    if recipe.schedule == "onecycle":
        return OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps, cycle_momentum=False)
    return LambdaLR(optimizer, lambda step: 1.0)
