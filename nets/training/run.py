"""A training run, and the folder that it writes: weights, metrics, pictures and run.json."""

import logging
import signal
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from netkit.core import atomic_io
from netkit.core.errors import CardError, DataError, Interrupted, MissingExtraError, ModelError, UsageError
from netkit.core.model_card import ModelCard, Origin
from netkit.core.runs import CONFUSION, CURVES, LOGS, METRICS, MISTAKES, MODELS, PARITY, STATE, WEIGHTS
from netkit.core.system import usable_cores
from netkit.core.version import VERSION
from netkit.data.dataset import DataSet
from netkit.data.temperature import softmax
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint, distributed, plots, record, state
from netkit.nets.training import weights as initial_weights
from netkit.nets.training.device import choose_device, choose_precision
from netkit.nets.training.metrics import predict, write_csv
from netkit.nets.training.plan import NO_CALLBACKS, Callbacks, Plan
from netkit.nets.training.recipe import Recipe
from netkit.nets.training.record import Arguments
from netkit.nets.training.trainer import Trainer

if TYPE_CHECKING:
    from netkit.nets.training.tensorboard import EventWriter

logger = logging.getLogger(__name__)

RESULTS = (WEIGHTS, *MODELS.values(), PARITY)
PICTURES = (CURVES, CONFUSION, MISTAKES)


@dataclass(frozen=True)
class TrainedRun:
    """The weights file of a run and its model card."""

    weights: Path
    card: ModelCard


def train(plan: Plan, data: DataSet, callbacks: Callbacks = NO_CALLBACKS) -> TrainedRun:
    """Train on `data` and write the run to the folder `plan.out`. Replaces an earlier run in this folder.

    The weights of an earlier run stay until the new ones are complete. With several processes, each one loads the state
    to resume from, and only the main process writes to the folder.

    Raises:
        UsageError: the architecture is unknown, the folder cannot be used or is in use by another run, the run to
            resume had other arguments, or the recipe needs weights or a validation split that are missing.
        MissingExtraError: tensorboard is not installed.
        DeviceError: the device cannot be used.
        TrainingError: the loss became NaN or infinite; or, if this is not the main process, `callbacks.on_network`
            raised an exception there.
        Interrupted: `callbacks.stop` returned a signal; the state is saved.
    """
    if plan.tensorboard and not find_spec("tensorboard"):
        raise MissingExtraError("tensorboard", "tensorboard")
    ranks = distributed.from_environment()
    device, device_name = choose_device(plan.device, local_rank=ranks.local_rank)
    torch.set_num_threads(max(1, usable_cores() // ranks.local_world_size))
    if torch.are_deterministic_algorithms_enabled() != plan.deterministic:
        torch.use_deterministic_algorithms(plan.deterministic)  # takes 2 s, because it imports a compiler
    recipe = replace(plan.recipe, precision=choose_precision(plan.recipe.precision, device))
    if recipe.precision == "fp16" and device.type == "cpu":
        logger.warning("--precision fp16 is very slow on CPUs; pass fp32 or bf16")
    plan.check(data)
    card = _untrained_card(plan.arch, data, recipe, plan.seed)
    torch.manual_seed(plan.seed)
    net = build(card)
    if not any(weight.requires_grad for weight in net.parameters()):
        raise UsageError(f"{plan.arch}: has no parameters to train")
    weights_sha256 = initial_weights.load_into(net, plan.weights) if plan.weights else None
    arguments = {
        "arch": plan.arch, "data": data.source, "data_sha256": data.sha256, "seed": plan.seed, "device": device.type,
        "threads": torch.get_num_threads(), "processes": ranks.world_size, "compiled": plan.compiled,
        "deterministic": plan.deterministic, "torch": torch.__version__, "recipe": asdict(recipe),
        "input": asdict(card.input), "mean": list(card.mean), "std": list(card.std),
        "weights_sha256": weights_sha256,
    }  # fmt: skip
    weights = plan.out / WEIGHTS
    if plan.resume and weights.exists() and not (plan.out / STATE).exists():
        record.check_resumable(plan.out, arguments, record.read(plan.out))
        logger.info("%s: this run is already complete", plan.out)
        return TrainedRun(weights, checkpoint.load(weights, trusted=plan.arch)[1])
    with distributed.process_group(ranks, device), ExitStack() as stack:
        ranks.run_on_main(lambda: _check_network(net, card, plan, callbacks))
        _make_folder(plan.out)
        if ranks.is_main:
            stack.enter_context(atomic_io.locked_folder(plan.out))
        trainer = Trainer(
            FromPixels(net, card), data, recipe=recipe, seed=plan.seed, device=device, ranks=ranks,
            compiled=plan.compiled,
        )  # fmt: skip
        if plan.note:
            logger.info(plan.note)
        logger.info(
            "training %s on %s, on %s: %s images, %s",
            plan.arch, data.name, device_name, f"{len(data.train_labels):,}", recipe.summary(),
        )  # fmt: skip
        _start(trainer, plan, arguments)
        with _event_writer(trainer, plan) as events:
            _run(trainer, plan, arguments, callbacks, events)
        origin = replace(card.origin, test_accuracy=trainer.finish())
        card = replace(card, origin=origin, confidence=trainer.calibrate())
        if ranks.is_main:
            _finish(trainer, data, plan.out, card, arguments)
        del trainer  # its DDP refers to the process group
    return TrainedRun(weights, card)


def _check_network(net: nn.Module, card: ModelCard, plan: Plan, callbacks: Callbacks) -> None:
    if not (plan.resume and (plan.out / STATE).exists()):
        with torch.random.fork_rng(devices=[]):
            callbacks.on_network(net, card)


def _start(trainer: Trainer, plan: Plan, arguments: Arguments) -> None:
    """Restore the saved state if `plan.resume` is set and it exists; otherwise save the state before the first step."""
    path = plan.out / STATE
    if plan.resume and path.exists():
        snapshot, earlier = state.load(path)
        record.check_resumable(plan.out, arguments, earlier)
        try:
            trainer.restore(snapshot)
        except (KeyError, RuntimeError, TypeError, ValueError) as exc:
            raise ModelError(f"{path}: does not match the network ({exc}); omit --resume to start again") from None
        logger.info("resuming after step %s of %s", f"{trainer.step:,}", f"{trainer.schedule.steps:,}")
        return
    if not trainer.ranks.is_main:
        return
    if plan.resume:
        logger.info("%s: nothing to resume; starting from the beginning", plan.out)
    elif path.exists():
        logger.info("%s: starting again without --resume; the progress of the earlier run is deleted", plan.out)
    if earlier_files := [name for name in RESULTS if (plan.out / name).exists()]:
        logger.info(
            "replacing the run in %s: at its end, the new run deletes %s; pass another --out to keep them",
            plan.out, ", ".join(earlier_files),
        )  # fmt: skip
    for log in (plan.out / LOGS).glob("events.out.tfevents.*"):  # logs of the earlier run
        log.unlink()
    # saved before the first step, so that --resume after an early kill continues this run, not an earlier one
    state.save(path, trainer.snapshot(), arguments)


def _event_writer(trainer: Trainer, plan: Plan) -> AbstractContextManager["EventWriter | None"]:
    if not (plan.tensorboard and trainer.ranks.is_main):
        return nullcontext()
    from netkit.nets.training.tensorboard import EventWriter  # needs the extra [tensorboard]

    return closing(EventWriter(plan.out, step=trainer.step, recipe=str(trainer.recipe)))


def _run(
    trainer: Trainer, plan: Plan, arguments: Arguments, callbacks: Callbacks, events: "EventWriter | None"
) -> None:
    """Train to the end. Save the state every `save_every_s`, at the end of each epoch, and before stopping early."""
    saved_at, images_before, accuracies = time.monotonic(), 0, ""
    for metrics in trainer.run():
        if metrics is None:
            continue
        images = trainer.schedule.images_after(trainer.step)
        callbacks.on_step(images - images_before, f"{metrics}{accuracies}")
        images_before = images
        epoch_ended = trainer.schedule.ends_epoch(trainer.step)
        if events:
            events.write_step(trainer.step, loss=metrics.loss, lr=trainer.lr)
        if epoch_ended:
            row = trainer.rows[-1]
            accuracies = f", train {row.train_accuracy:.2%}, {row.split} {row.eval_accuracy:.2%}"
            callbacks.on_epoch(row)
            if events:
                events.write_epoch(row)
        signal_number = callbacks.stop()
        stopped = trainer.ranks.any(signal_number is not None)
        if epoch_ended or stopped or time.monotonic() - saved_at >= plan.save_every_s:
            if trainer.ranks.is_main:
                write_csv(plan.out / METRICS, trainer.rows)
                state.save(plan.out / STATE, trainer.snapshot(), arguments)
            saved_at = time.monotonic()
        if stopped and not trainer.done:
            message = f"stopped after step {trainer.step:,} of {trainer.schedule.steps:,}; the progress is saved"
            raise Interrupted(message, signal_number or signal.SIGTERM)  # None if another rank received the signal


def _finish(trainer: Trainer, data: DataSet, out: Path, card: ModelCard, arguments: Arguments) -> None:
    """Write the results of the run. Remove the saved state last: until then --resume writes what is missing.

    Models and pictures of an earlier run are removed before its weights are replaced, so that none of them is
    ever beside weights to which it does not belong. Pictures are drawn after the weights are written, because drawing
    can fail.
    """
    write_csv(out / METRICS, trainer.rows)
    record.write(out, arguments)
    path, weights = out / WEIGHTS, checkpoint.content(trainer.result.net, card)
    if not path.exists() or path.read_bytes() != weights:  # equal if this run was killed after it wrote the weights
        for name in (*MODELS.values(), PARITY):
            (out / name).unlink(missing_ok=True)
        for name in PICTURES:
            with suppress(OSError):
                (out / name).unlink()
        atomic_io.write_atomic(path, weights)
    logits = predict(trainer.result, trainer.test_images).cpu().numpy()
    plots.draw_all(
        out, trainer.rows, smoothed_labels=trainer.recipe.label_smoothing > 0, images=data.test_images,
        labels=data.test_labels, probabilities=softmax(logits, card.confidence.temperature), class_names=card.labels,
    )  # fmt: skip
    (out / STATE).unlink(missing_ok=True)


def _untrained_card(arch: str, data: DataSet, recipe: Recipe, seed: int) -> ModelCard:
    """Create the model card, with a test accuracy of 0 until the end of the training."""
    channels, height, width = data.train_images.shape[1:]
    mean, std = data.mean_and_std()
    origin = Origin(
        data=data.name,
        data_sha256=data.sha256,
        recipe=asdict(recipe),
        seed=seed,
        test_accuracy=0.0,
        netkit=VERSION,
        torch=torch.__version__,
        val_split=data.val_split,
        validated_on_test=data.val_images is not None and data.val_images is data.test_images,
        data_options=data.reading,
        max_bytes=data.max_bytes,
        max_pixels=data.max_pixels,
    )
    try:
        return ModelCard(arch, data.labels, channels, height, width, mean, std, origin, data.resize, data.draft)
    except CardError as exc:
        raise DataError(f"{data.source}: cannot be trained on: {exc}") from None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"--out {out}: the folder cannot be created: {exc.strerror}") from None
