"""A training run from its arguments to the folder it leaves: weights, metrics, pictures and run.json."""

import logging
import signal
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from netkit.core import atomic_io
from netkit.core.errors import CardError, DataError, Interrupted, MissingExtraError, UsageError
from netkit.core.model_card import ModelCard, Origin
from netkit.core.runs import CONFUSION, CURVES, LOGS, METRICS, MISTAKES, MODELS, PARITY, STATE, WEIGHTS
from netkit.core.system import usable_cores
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

SAVE_EVERY_S = 15.0  # a kill costs no more work than that


@dataclass(frozen=True)
class Plan:
    """What a run is asked to do. `device` is "auto", "cpu" or "cuda"; `resume` goes on with the run in `out`.

    `weights` is a .safetensors file to begin with, None for fresh ones; `tensorboard` leaves TensorBoard's logs there
    too.
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
class Watch:
    """Who looks on: told how many images more were learnt from and how it stands, and of each epoch; asked to stop.

    `stop` gives the number of the signal that came, or None.
    """

    on_step: Callable[[int, str], None] = lambda images, standing: None
    on_epoch: Callable[[EpochMetrics], None] = lambda row: None
    stop: Callable[[], int | None] = lambda: None


UNWATCHED = Watch()


@dataclass(frozen=True)
class TrainedRun:
    """What a run gave: the weights file, and the card that it carries."""

    weights: Path
    card: ModelCard


def train(plan: Plan, data: DataSet, watch: Watch = UNWATCHED) -> TrainedRun:
    """Train on `data` and leave the run in the folder `plan.out`, in place of the run that may be there.

    The weights of an earlier run stay until the new ones are whole. Raises UsageError for an unknown arch, a folder
    that is impossible or that another run is writing, or a run to resume that had other arguments; MissingExtraError
    where there is no tensorboard for its logs; DeviceError where the device cannot be used; TrainingError where the
    loss is no number any more; Interrupted, with all saved, when told to stop. Of several processes (see ranks) all
    read the folder to resume from, and the first one writes it.
    """
    if plan.tensorboard and not find_spec("tensorboard"):
        raise MissingExtraError("tensorboard", "tensorboard")
    here = distributed.from_environment()
    device = choose_device(plan.device, local_rank=here.local_rank)
    torch.set_num_threads(max(1, usable_cores() // here.local_count))
    torch.use_deterministic_algorithms(plan.deterministic)
    recipe = replace(plan.recipe, precision=choose_precision(plan.recipe.precision, device))
    card = _card(plan.arch, data, recipe, plan.seed)
    torch.manual_seed(plan.seed)
    net = build(card)
    weights_sha256 = initial_weights.put_into(net, plan.weights) if plan.weights else None
    model = FromPixels(net, card)
    arguments = {
        "arch": plan.arch, "data": data.source, "data_sha256": data.sha256, "seed": plan.seed, "device": device.type,
        "threads": torch.get_num_threads(), "processes": here.count, "compiled": plan.compiled,
        "deterministic": plan.deterministic, "torch": torch.__version__, "recipe": asdict(recipe),
        "input": asdict(card.input), "mean": list(card.mean), "std": list(card.std),
        "weights_sha256": weights_sha256,
    }  # fmt: skip
    _make_folder(plan.out)
    weights = plan.out / WEIGHTS
    if plan.resume and weights.exists() and not (plan.out / STATE).exists():
        record.refuse_another(plan.out, arguments, record.read(plan.out))
        logger.info("%s: this run has ended: nothing is left to do", plan.out)
        return TrainedRun(weights, checkpoint.load(weights)[1])
    with distributed.joined(here, device), atomic_io.locked_folder(plan.out) if here.first else nullcontext():
        training = Training(
            model, data, recipe=recipe, seed=plan.seed, device=device, ranks=here, compiled=plan.compiled
        )
        logger.info(
            "training %s on %s (%s images), %s; %s", plan.arch, data.name, f"{len(data.train_labels):,}", device, recipe
        )
        _begin(training, plan, arguments)
        with closing(_board(training, plan.out)) if plan.tensorboard and here.first else nullcontext() as board:
            _run(training, plan, arguments, watch, board)
        card = replace(card, origin=replace(card.origin, test_accuracy=training.rows[-1].test_accuracy))
        if here.first:
            _finish(training, data, plan.out, card, arguments)
    return TrainedRun(weights, card)


def _begin(training: Training, plan: Plan, arguments: Arguments) -> None:
    """Go on from the state that is there, if that is wanted; else begin at the beginning."""
    path = plan.out / STATE
    if plan.resume and path.exists():
        snapshot, earlier = state.load(path)
        record.refuse_another(plan.out, arguments, earlier)
        state.restore(training, snapshot, path)
        logger.info("going on after step %s of %s", f"{training.step:,}", f"{training.steps:,}")
        return
    if plan.resume:
        logger.info("%s: nothing is saved there yet: starting at the beginning", plan.out)
    elif training.ranks.first:
        if path.exists():
            logger.info("%s: starting anew; --resume would go on with the run that was stopped", plan.out)
        elif (plan.out / WEIGHTS).exists():
            logger.info("replacing the run in %s, whose weights stay until this one has ended", plan.out)
    if training.ranks.first:
        for log in (plan.out / LOGS).glob("events.out.tfevents.*"):  # of the run that this one replaces
            log.unlink()
        # at once: killed before anything else is saved, this run is the one to go on with
        state.save(path, training.snapshot(), arguments)


def _board(training: Training, out: Path) -> "Board":
    from netkit.nets.training.tensorboard import Board  # an extra

    return Board(out, step=training.step, recipe=str(training.recipe))


def _run(training: Training, plan: Plan, arguments: Arguments, watch: Watch, board: "Board | None") -> None:
    """Train to the end, and save the state every now and then, at the end of each epoch, and when told to stop."""
    saved, shown = time.monotonic(), 0
    for glance in training.run():
        if glance is None:
            continue
        learnt = training.timetable.images_after(training.step)
        watch.on_step(learnt - shown, str(glance))
        shown = learnt
        ended = training.timetable.ends_an_epoch(training.step)
        if board:
            board.step(training.step, loss=glance.loss, lr=training.lr)
        if ended:
            watch.on_epoch(training.rows[-1])
            if board:
                board.epoch(training.rows[-1])
        signal_number = watch.stop()
        stopped = training.ranks.any(signal_number is not None)
        if ended or stopped or time.monotonic() - saved >= plan.save_every_s:
            if training.ranks.first:
                write_csv(plan.out / METRICS, training.rows)
                state.save(plan.out / STATE, training.snapshot(), arguments)
            saved = time.monotonic()
        if stopped and training.step < training.steps:
            told = f"stopped after step {training.step:,} of {training.steps:,}; all is saved"
            raise Interrupted(told, signal_number or signal.SIGTERM)  # None where another rank got it


def _finish(training: Training, data: DataSet, out: Path, card: ModelCard, arguments: Arguments) -> None:
    """Leave the run: its weights last, when no models of earlier ones are beside them; then the state can go."""
    probabilities = predict(training.result, training.test_images).softmax(dim=1).cpu().numpy()
    truth = data.test_labels
    write_csv(out / METRICS, training.rows)
    plots.save(plots.curves(training.rows, smoothed=training.recipe.label_smoothing > 0), out / CURVES)
    plots.save(plots.confusion(truth, probabilities.argmax(axis=1), card.labels), out / CONFUSION)
    plots.save(plots.mistakes(data.test_images, truth, probabilities, card.labels), out / MISTAKES)
    for name in (*MODELS.values(), PARITY):
        (out / name).unlink(missing_ok=True)
    record.write(out, arguments)
    checkpoint.save(out / WEIGHTS, training.result.net, card)
    (out / STATE).unlink(missing_ok=True)


def _card(arch: str, data: DataSet, recipe: Recipe, seed: int) -> ModelCard:
    """The card of a net that has not been trained yet: its test accuracy is 0."""
    channels, height, width = data.train_images.shape[1:]
    mean, std = data.mean_and_std()
    origin = Origin(
        data=data.name,
        data_sha256=data.sha256,
        recipe=asdict(recipe),
        seed=seed,
        test_accuracy=0.0,
        netkit=version("netkit"),
        torch=torch.__version__,
        val_split=data.val_split,
    )
    try:
        return ModelCard(arch, data.labels, channels, height, width, mean, std, origin, data.resize)
    except CardError as fault:
        raise DataError(f"{data.source}: cannot be trained on: {fault}") from None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UsageError(f"--out {out}: cannot be made a folder: {fault.strerror}") from None
