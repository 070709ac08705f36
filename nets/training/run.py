"""A training run from its arguments to the folder it leaves: model.safetensors, metrics.csv and run.json."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from nets.build import build
from nets.card import ModelCard, Origin
from nets.data import dataset
from nets.data.dataset import DataSet
from nets.errors import DataError, ModelError, UsageError
from nets.files import write_whole
from nets.machine import usable_cores
from nets.pixels import FromPixels
from nets.runs import ARGUMENTS, METRICS, MODEL, WEIGHTS
from nets.training import checkpoint
from nets.training.device import choose_device
from nets.training.fit import OnStep, fit
from nets.training.metrics import EpochMetrics, write_csv
from nets.training.recipe import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """What a run gave: the weights file, and the card that it carries."""

    weights: Path
    card: ModelCard


def train(
    *,
    arch: str,
    data: DataSet,
    recipe: Recipe,
    seed: int,
    device: str,
    out: Path,
    on_step: OnStep,
    on_epoch: Callable[[EpochMetrics], None],
) -> TrainedRun:
    """Train `arch` on `data` and leave the run in the folder `out`, in place of the run that may be there.

    `device` is "auto", "cpu" or "cuda". Raises UsageError for an unknown arch or an impossible folder, DeviceError
    where the device cannot be used.
    """
    _make_folder(out)
    where = choose_device(device)
    torch.set_num_threads(usable_cores())
    torch.manual_seed(seed)
    card = _card(arch, data, recipe, seed)
    model = FromPixels(build(card), card)
    _clear_away(out)
    logger.info(
        "training %s on %s (%s images) on %s: %s", arch, data.name, f"{len(data.train_labels):,}", where, recipe
    )
    rows: list[EpochMetrics] = []
    for row in fit(model, data, recipe=recipe, seed=seed, device=where, on_step=on_step):
        rows.append(row)
        write_csv(out / METRICS, rows)
        on_epoch(row)
    card = replace(card, origin=replace(card.origin, test_accuracy=rows[-1].test_accuracy))
    arguments = {"arch": arch, "data": data.source, "recipe": asdict(recipe), "seed": seed, "device": device}
    write_whole(out / ARGUMENTS, json.dumps(arguments, indent=2).encode() + b"\n")
    checkpoint.save(out / WEIGHTS, model.net, card)
    return TrainedRun(out / WEIGHTS, card)


def data_of(run: Path, card: ModelCard, *, source: str | None = None) -> DataSet:
    """The data set that the run in that folder was trained on, from where run.json says it lies, or from `source`.

    Raises ModelError where neither is known, DataError where the data set is not the one of the card.
    """
    if source is None:
        try:
            source = str(json.loads((run / ARGUMENTS).read_text())["data"])
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise ModelError(f"{run / ARGUMENTS}: does not say where the data lies ({fault}); use --data") from None
    data = dataset.load(source)
    if data.sha256 != card.origin.data_sha256:
        raise DataError(
            f"{data.source}: not the data set that the run was trained on ({card.origin.data}): "
            f"SHA-256 {data.sha256}, not {card.origin.data_sha256}"
        )
    return data


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
    )
    return ModelCard(arch, data.labels, channels, height, width, mean, std, origin)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UsageError(f"--out {out}: cannot be made a folder: {fault.strerror}") from None


def _clear_away(out: Path) -> None:
    """Remove an earlier run's files: none of them would belong to the new weights."""
    earlier = [out / name for name in (WEIGHTS, METRICS, ARGUMENTS, MODEL) if (out / name).exists()]
    if earlier:
        logger.info("replacing the run in %s", out)
    for path in earlier:
        path.unlink()
