"""A training run, from its plan to the folder that it leaves: weights, metrics, pictures and run.json."""

import logging
import signal
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from netkit.core import atomic_io
from netkit.core.errors import CardError, DataError, Interrupted, MissingExtraError, ModelError, UsageError
from netkit.core.model_card import ModelCard, Origin
from netkit.core.runs import CONFUSION, CURVES, LOGS, METRICS, MISTAKES, MODELS, PARITY, STATE, WEIGHTS
from netkit.core.system import usable_cores
from netkit.core.version import VERSION
from netkit.data.dataset import DataSet
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint, distributed, plots, record, state
from netkit.nets.training import weights as initial_weights
from netkit.nets.training.device import choose_device, choose_precision
from netkit.nets.training.metrics import EpochMetrics, predict, write_csv
from netkit.nets.training.recipe import Recipe
from netkit.nets.training.record import Arguments
from netkit.nets.training.trainer import Training

if TYPE_CHECKING:
    from netkit.nets.training.tensorboard import Board

logger = logging.getLogger(__name__)

SAVE_EVERY_S = 15.0  # the most work that a kill can cost
PICTURES = (CURVES, CONFUSION, MISTAKES)


@dataclass(frozen=True)
class Plan:
    """What a run is asked to do.

    Args:
        device: "auto", "cpu" or "cuda".
        out: folder of the run.
        resume: continue the run in `out` if it was stopped.
        tensorboard: also write logs for TensorBoard.
        weights: a .safetensors file with initial weights; None for fresh ones.
        save_every_s: seconds between two saved states within an epoch.
    """

    arch: str
    recipe: Recipe
    seed: int
    device: str
    out: Path
    resume: bool = False
    compiled: bool = False
    deterministic: bool = False
    tensorboard: bool = False
    weights: Path | None = None
    save_every_s: float = SAVE_EVERY_S


@dataclass(frozen=True)
class Callbacks:
    """Functions that `train` calls.

    Args:
        on_step: called with the number of images learnt from since the last call, and the metrics as text.
        on_epoch: called with the metrics of an epoch that has ended.
        stop: returns the number of a signal that asks the run to stop, or None.
    """

    on_step: Callable[[int, str], None] = lambda images, metrics: None
    on_epoch: Callable[[EpochMetrics], None] = lambda row: None
    stop: Callable[[], int | None] = lambda: None


NO_CALLBACKS = Callbacks()


@dataclass(frozen=True)
class TrainedRun:
    """The weights file of a run, and the card in it."""

    weights: Path
    card: ModelCard


def train(plan: Plan, data: DataSet, callbacks: Callbacks = NO_CALLBACKS) -> TrainedRun:
    """Train on `data` and leave the run in the folder `plan.out`, replacing an earlier run there.

    The weights of an earlier run stay until the new ones are complete. If several processes train together, each reads
    the state to resume from, and the first one writes the folder.

    Raises:
        UsageError: the architecture is unknown, the folder cannot be used or is in use by another run, or the run to
            resume had other arguments.
        MissingExtraError: tensorboard is not installed.
        DeviceError: the device cannot be used.
        TrainingError: the loss became NaN or infinite.
        Interrupted: a callback asked to stop; the state is saved.
    """
    if plan.tensorboard and not find_spec("tensorboard"):
        raise MissingExtraError("tensorboard", "tensorboard")
    ranks = distributed.from_environment()
    device = choose_device(plan.device, local_rank=ranks.local_rank)
    torch.set_num_threads(max(1, usable_cores() // ranks.local_count))
    if torch.are_deterministic_algorithms_enabled() != plan.deterministic:  # the call imports a compiler: 2 s
        torch.use_deterministic_algorithms(plan.deterministic)
    recipe = replace(plan.recipe, precision=choose_precision(plan.recipe.precision, device))
    card = _untrained_card(plan.arch, data, recipe, plan.seed)
    torch.manual_seed(plan.seed)
    net = build(card)
    weights_sha256 = initial_weights.load_into(net, plan.weights) if plan.weights else None
    arguments = {
        "arch": plan.arch, "data": data.source, "data_sha256": data.sha256, "seed": plan.seed, "device": device.type,
        "threads": torch.get_num_threads(), "processes": ranks.count, "compiled": plan.compiled,
        "deterministic": plan.deterministic, "torch": torch.__version__, "recipe": asdict(recipe),
        "input": asdict(card.input), "mean": list(card.mean), "std": list(card.std),
        "weights_sha256": weights_sha256,
    }  # fmt: skip
    _make_folder(plan.out)
    weights = plan.out / WEIGHTS
    if plan.resume and weights.exists() and not (plan.out / STATE).exists():
        record.refuse_another(plan.out, arguments, record.read(plan.out))
        logger.info("%s: this run has ended: nothing is left to do", plan.out)
        return TrainedRun(weights, checkpoint.load(weights, trusted=plan.arch)[1])
    with distributed.process_group(ranks, device), atomic_io.locked_folder(plan.out) if ranks.first else nullcontext():
        training = Training(
            FromPixels(net, card), data, recipe=recipe, seed=plan.seed, device=device, ranks=ranks,
            compiled=plan.compiled,
        )  # fmt: skip
        images = f"{len(data.train_labels):,}"
        logger.info("training %s on %s (%s images), %s; %s", plan.arch, data.name, images, device, recipe)
        _start(training, plan, arguments)
        with closing(_board(training, plan.out)) if plan.tensorboard and ranks.first else nullcontext() as board:
            _run(training, plan, arguments, callbacks, board)
        card = replace(card, origin=replace(card.origin, test_accuracy=training.rows[-1].test_accuracy))
        if ranks.first:
            _finish(training, data, plan.out, card, arguments)
        del training  # its DDP keeps the process group in use
    return TrainedRun(weights, card)


def _start(training: Training, plan: Plan, arguments: Arguments) -> None:
    """Restore the saved state if the run is to be resumed and there is one; else save the state of a new run."""
    path = plan.out / STATE
    if plan.resume and path.exists():
        snapshot, earlier = state.load(path)
        record.refuse_another(plan.out, arguments, earlier)
        try:
            training.restore(snapshot)
        except (KeyError, RuntimeError, TypeError, ValueError) as exc:
            raise ModelError(f"{path}: does not fit this net ({exc}); start again without --resume") from None
        logger.info("going on after step %s of %s", f"{training.step:,}", f"{training.schedule.steps:,}")
        return
    if not training.ranks.first:
        return
    if plan.resume:
        logger.info("%s: nothing is saved there yet: starting at the beginning", plan.out)
    elif path.exists():
        logger.info("%s: starting again; --resume would continue the run that was stopped", plan.out)
    elif (plan.out / WEIGHTS).exists():
        logger.info("replacing the run in %s, whose weights stay until this one has ended", plan.out)
    for log in (plan.out / LOGS).glob("events.out.tfevents.*"):  # of the run that this one replaces
        log.unlink()
    # at once: if this run is killed before its first step, --resume continues this run, not an earlier one
    state.save(path, training.snapshot(), arguments)


def _board(training: Training, out: Path) -> "Board":
    from netkit.nets.training.tensorboard import Board  # an extra

    return Board(out, step=training.step, recipe=str(training.recipe))


def _run(training: Training, plan: Plan, arguments: Arguments, callbacks: Callbacks, board: "Board | None") -> None:
    """Train to the end. Save the state every `save_every_s`, at the end of each epoch, and when asked to stop."""
    saved, images_shown = time.monotonic(), 0
    for metrics in training.run():
        if metrics is None:
            continue
        images = training.schedule.images_after(training.step)
        callbacks.on_step(images - images_shown, str(metrics))
        images_shown = images
        ended = training.schedule.ends_epoch(training.step)
        if board:
            board.step(training.step, loss=metrics.loss, lr=training.lr)
        if ended:
            callbacks.on_epoch(training.rows[-1])
            if board:
                board.epoch(training.rows[-1])
        signal_number = callbacks.stop()
        stopped = training.ranks.any(signal_number is not None)
        if ended or stopped or time.monotonic() - saved >= plan.save_every_s:
            if training.ranks.first:
                write_csv(plan.out / METRICS, training.rows)
                state.save(plan.out / STATE, training.snapshot(), arguments)
            saved = time.monotonic()
        if stopped and training.step < training.schedule.steps:
            message = f"stopped after step {training.step:,} of {training.schedule.steps:,}; all is saved"
            raise Interrupted(message, signal_number or signal.SIGTERM)  # None if another rank received it


def _finish(training: Training, data: DataSet, out: Path, card: ModelCard, arguments: Arguments) -> None:
    """Leave the run in its folder. The saved state goes last: until then --resume repeats what is missing.

    Models and pictures of earlier weights go before the new weights take their name, so that they never lie beside
    weights that they do not belong to. Pictures are drawn last, since no failure of theirs may cost the weights.
    """
    write_csv(out / METRICS, training.rows)
    record.write(out, arguments)
    path, weights = out / WEIGHTS, checkpoint.content(training.result.net, card)
    if not path.exists() or path.read_bytes() != weights:  # equal if this run was killed after it wrote them
        for name in (*MODELS.values(), PARITY):
            (out / name).unlink(missing_ok=True)
        for name in PICTURES:
            with suppress(OSError):
                (out / name).unlink()
        atomic_io.write_atomic(path, weights)
    probabilities = predict(training.result, training.test_images).softmax(dim=1).cpu().numpy()
    plots.draw_all(
        out, training.rows, smoothed=training.recipe.label_smoothing > 0, images=data.test_images,
        labels=data.test_labels, probabilities=probabilities, class_names=card.labels,
    )  # fmt: skip
    (out / STATE).unlink(missing_ok=True)


def _untrained_card(arch: str, data: DataSet, recipe: Recipe, seed: int) -> ModelCard:
    """The card of a network before its training, with a test accuracy of 0."""
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
    )
    try:
        return ModelCard(arch, data.labels, channels, height, width, mean, std, origin, data.resize)
    except CardError as exc:
        raise DataError(f"{data.source}: cannot be trained on: {exc}") from None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"--out {out}: cannot be made a folder: {exc.strerror}") from None
