"""The training loop.

The order of the images and their augmentation depend only on the seed, the epoch and the saved losses, so a run
that was stopped at any step continues exactly as without the stop.
"""

import logging
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from netkit.core.errors import UsageError
from netkit.core.model_card import Confidence
from netkit.data.dataset import DataSet
from netkit.data.temperature import MIN_IMAGES, fit_confidence
from netkit.nets.normalize import FromPixels
from netkit.nets.training.augment import Augmentation
from netkit.nets.training.checkpoint import load_state
from netkit.nets.training.device import DTYPES, autocast, choose_precision
from netkit.nets.training.distributed import SINGLE_PROCESS, Ranks, data_parallel
from netkit.nets.training.feed import Feed
from netkit.nets.training.metrics import SPLIT_NAMES, EpochMetrics, best_epoch, evaluate, predict
from netkit.nets.training.optim import Optimizer
from netkit.nets.training.recipe import Recipe
from netkit.nets.training.sampling import Sampler
from netkit.nets.training.schedule import EpochSchedule, batch_sizes
from netkit.nets.training.state import Snapshot
from netkit.nets.training.step_metrics import AsyncLosses, StepMetrics, divergence_error
from netkit.nets.training.weights import freeze_all_but_last_layer, shared_parameters

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a model, and holds all state that the next step depends on.

    `step` is the number of finished steps; `rows` are the metrics of the finished epochs; `done` says that no step
    follows. With a validation split, the weights of the best epoch are kept.

    A snapshot can be taken between two steps. A Trainer with the same arguments that restores it continues with
    bit-identical results.
    """

    def __init__(
        self,
        model: FromPixels,
        data: DataSet,
        *,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
        compiled: bool = False,
    ) -> None:
        self.recipe, self.seed, self.device, self.ranks = recipe, seed, device, ranks
        shared = shared_parameters(model.net)
        self.model = model.to(device)
        if recipe.freeze:
            freeze_all_but_last_layer(self.model)
        if recipe.channels_last:
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                if tensor.ndim == 4:  # Module.to() fails if a tensor has five axes
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)
        if copied := sorted(shared - shared_parameters(self.model.net)):
            raise UsageError(
                f"{copied[0]} is a view of another parameter, which PyTorch copies when it moves or reorders "
                "weights; assign the same nn.Parameter to both modules, or compute the view in forward()"
            )
        images = len(data.train_labels)
        self.train_images, self.test_images = Feed(data.train_images, device), Feed(data.test_images, device)
        self.train_labels = torch.tensor(data.train_labels, device=device)
        self.test_labels = torch.tensor(data.test_labels, device=device)
        self._class_weights = _balanced_weights(self.train_labels, len(data.labels)) if recipe.balanced else None
        self.split, self._eval_images, self._eval_labels = "test", self.test_images, self.test_labels
        if data.val_images is not None:
            self.split, self._eval_images = "val", Feed(data.val_images, device)
            self._eval_labels = torch.tensor(data.val_labels, device=device)
        self.schedule = EpochSchedule(recipe, images)
        self.step = 0
        self.rows: list[EpochMetrics] = []
        self.done = False
        self._best: dict[str, Tensor] = {}  # weights of the best epoch
        self._sampler = Sampler(recipe, images, seed=seed, device=device)
        self._losses = AsyncLosses(self.schedule, device)
        self._dtype = DTYPES[choose_precision(recipe.precision, device)]
        self._optimizer = Optimizer(self.model, recipe, device=device, scaled=self._dtype == torch.float16)
        ema = get_ema_multi_avg_fn(recipe.ema)
        self._average = AveragedModel(self.model, multi_avg_fn=ema, use_buffers=True) if recipe.ema else None
        example = torch.zeros(2, *self.train_images.shape[1:], device=device)
        parallel = data_parallel(self.model, example) if ranks.world_size > 1 else self.model
        self._forward = torch.compile(parallel) if compiled else parallel

    @property
    def result(self) -> FromPixels:
        """The model to evaluate and save: with averaged weights if the recipe has an `ema`."""
        return self._average.module if self._average else self.model  # type: ignore[return-value]  # a copy of it

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.schedule.lr_at(self.step)

    def finish(self) -> float:
        """Set `result` to the best epoch of a validation split; return its test accuracy in float32.

        The training must be done, and can neither be continued nor saved after this.
        """
        if self.split == "test":
            return self.rows[-1].eval_accuracy
        load_state(self.result, self._best)
        best, last = best_epoch(self.rows), self.rows[-1]
        stopped = f"; stopped after epoch {last.epoch}" if self.step < self.schedule.steps else ""
        logger.info("best epoch %s: validation accuracy %.2f%%%s", best.epoch, 100 * best.eval_accuracy, stopped)
        return evaluate(self.result, self.test_images, self.test_labels)[1]

    def calibrate(self) -> Confidence:
        """Fit the temperature of `result` to the validation images; call `finish` first.

        The temperature is 1 if there are fewer than MIN_IMAGES validation images.
        """
        if self.split == "test":
            return Confidence()
        logits = predict(self.result, self._eval_images).cpu().numpy()
        confidence = fit_confidence(logits, self._eval_labels.cpu().numpy())
        if confidence.images:
            logger.info("temperature %.4g, fitted to %s validation images", confidence.temperature, f"{len(logits):,}")
        else:
            message = "the probabilities are not calibrated: %s validation images, but calibration needs at least %s"
            logger.info(message, len(logits), MIN_IMAGES)
        return confidence

    def snapshot(self) -> Snapshot:
        """Return the state of the training. The tensors are not copied: save them before the next step.

        Raises TrainingError if a weight is NaN or infinite, because the training could not continue from there.
        """
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise divergence_error("a weight became NaN or infinite", self.step, self.schedule)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in self._optimizer.momentum_buffers().items()}
        tensors |= self._sampler.tensors()
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return Snapshot(tensors, self.step, tuple(self.rows), self._optimizer.scaler_state())

    def restore(self, snapshot: Snapshot) -> None:
        """Load a snapshot. Raises KeyError or RuntimeError if it is from another model or recipe."""

        def with_prefix(prefix: str) -> dict[str, Tensor]:
            named = snapshot.tensors.items()
            return {name.removeprefix(prefix): tensor for name, tensor in named if name.startswith(prefix)}

        load_state(self.model, with_prefix("model."))
        if self._average:
            load_state(self._average, with_prefix("average."))
        self._optimizer.restore(with_prefix("momentum."), snapshot.scaler)
        self._sampler.restore(snapshot.tensors)
        torch.set_rng_state(snapshot.tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(snapshot.tensors["random.cuda"], self.device)
        self.step, self.rows, self._best = snapshot.step, list(snapshot.rows), with_prefix("best.")
        self.done = self._is_done()

    def run(self) -> Iterator[StepMetrics | None]:
        """Train to the end. Yields the latest metrics after each step, or None if no new ones arrived from the GPU.

        Raises TrainingError if a loss is NaN or infinite.
        """
        while not self.done:
            epoch, steps_before = self.schedule.position(self.step)
            started = time.monotonic()
            order = self._sampler.order(epoch)
            augment = Augmentation(
                self.train_images.shape, recipe=self.recipe, seed=self.seed, epoch=epoch, device=self.device
            )
            batches = order.split(batch_sizes(len(order), self.recipe.batch_size))[steps_before:]
            shards = [self.ranks.shard(indices) for indices in batches]
            loaded = self.train_images.batches(shard for shard, _ in shards)
            for indices, (shard, count), images_u8 in zip(batches, shards, loaded, strict=True):
                x, labels = augment(images_u8, shard), self.train_labels[shard]
                outcomes = self.train_step(x, labels, count=count, batch_size=len(indices))
                self._sampler.record(indices, outcomes)
                ended = self.schedule.ends_epoch(self.step)
                # several ranks must yield metrics at the same steps, because there they agree on whether to stop
                metrics = self._losses.latest(wait=ended or self.ranks.world_size > 1)
                if ended:
                    self._end_epoch(epoch, order, started)
                yield metrics

    def train_step(self, images: Tensor, labels: Tensor, *, count: int, batch_size: int) -> Tensor:
        """Do one step on this rank's shard of a batch.

        Images (n, C, H, W) are in [0, 255], labels (n,) int64, both on the device. Only the first `count` of them
        contribute to the gradient. Returns the losses of the whole batch, and 1 for each correct prediction and 0 for
        each wrong one: (2, batch_size).
        """
        self.model.train(not self.recipe.freeze)  # a frozen batch norm keeps its mean and variance
        try:
            with autocast(self.device, self._dtype):
                logits = self._forward(images)  # (n, classes)
        except ValueError as exc:
            if "more than 1 value per channel" not in str(exc):
                raise
            raise UsageError(
                "batch norm cannot train on a batch of one image; add training images, or pass a larger --batch-size"
            ) from None
        smoothing = self.recipe.label_smoothing
        losses = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="none")  # (n,)
        self.step += 1
        weighted = losses if self._class_weights is None else losses * self._class_weights[labels]
        # DDP averages the gradients of the ranks, so each rank multiplies its sum of losses by the world size
        self._optimizer.step(weighted[:count].sum() * (self.ranks.world_size / batch_size), lr=self.lr)
        if self._average:
            self._average.update_parameters(self.model)
        correct = logits.argmax(dim=1) == labels
        outcomes = self.ranks.gather(torch.stack([losses.detach(), correct])[:, :count], batch_size)
        self._losses.send(self.step, outcomes[0].mean())
        return outcomes

    def _end_epoch(self, epoch: int, order: Tensor, started: float) -> None:
        """Evaluate on the validation images, or else on the test images, and append a row of metrics."""
        train_loss, train_accuracy = self._sampler.end_epoch(order)
        # the last epoch is evaluated in float32, and with fp16 all epochs: on a CPU float16 is 30 times slower
        in_bf16 = self.step < self.schedule.steps and self._dtype == torch.bfloat16
        dtype = torch.bfloat16 if in_bf16 else torch.float32
        loss, accuracy = evaluate(self.result, self._eval_images, self._eval_labels, dtype)
        if not math.isfinite(loss):
            raise divergence_error(f"the {SPLIT_NAMES[self.split]} loss became {loss}", self.step, self.schedule)
        seconds = time.monotonic() - started
        self.rows.append(
            EpochMetrics(
                epoch, self.step, self.lr, train_loss, train_accuracy, loss, accuracy, seconds, split=self.split
            )
        )
        if self.split == "val" and best_epoch(self.rows) is self.rows[-1]:
            self._best = {name: tensor.clone() for name, tensor in self.result.state_dict().items()}
        # the metrics of the ranks can differ in the last digits, and only those of the main process are saved
        self.done = self.ranks.any(self.ranks.is_main and self._is_done())

    def _is_done(self) -> bool:
        """Whether all steps are done, or the best epoch is as long ago as the recipe's patience."""
        epochs_since_best = self.rows[-1].epoch - best_epoch(self.rows).epoch if self.rows else 0
        return self.step == self.schedule.steps or 0 < self.recipe.patience <= epochs_since_best


def _balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return a weight for each class, (classes,), inverse to its number of images. The mean over all images is 1."""
    return len(labels) / (classes * labels.bincount(minlength=classes).clamp_min(1)).float()
