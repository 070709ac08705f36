"""run.json: the arguments of a run, for --resume and to load its data set again."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import DataError, ModelError, NetkitError, UsageError
from netkit.core.model_card import ModelCard
from netkit.core.runs import ARGUMENTS
from netkit.data import registry
from netkit.data.dataset import DataSet
from netkit.data.options import Options
from netkit.nets.training.recipe import augmentation

logger = logging.getLogger(__name__)

# a run can be resumed only with equal values of these
MUST_MATCH = ("arch", "seed", "data_sha256", "input", "mean", "std", "weights_sha256", "recipe")
# these change only the last digits of the weights
MAY_DIFFER = ("device", "threads", "processes", "compiled", "deterministic", "torch")

Arguments = Mapping[str, Any]


def write(out: Path, arguments: Arguments) -> None:
    """Write run.json into the folder `out`."""
    write_atomic(out / ARGUMENTS, json.dumps(arguments, indent=2).encode() + b"\n")


def read(out: Path) -> dict[str, Any]:
    """Read run.json in the folder `out`. Raises ModelError if it is missing or damaged."""
    path = out / ARGUMENTS
    try:
        arguments = json.loads(path.read_text())
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: is damaged: not JSON") from None
    if not isinstance(arguments, dict):
        raise ModelError(f"{path}: is damaged: not a JSON object")
    return arguments


def check_resumable(out: Path, arguments: Arguments, earlier: Arguments) -> None:
    """Raise UsageError if the run in `out` was started with `earlier` arguments that do not match `arguments`.

    If they differ only in MAY_DIFFER, log a warning that the weights will not be bit-identical.
    """
    if any(arguments.get(name) != earlier.get(name) for name in MUST_MATCH):
        raise UsageError(
            f"{out}: this run was started with {_differences(arguments, earlier)}, "
            "or omit --resume to replace the run with a new one"
        )
    if changed := [name for name in MAY_DIFFER if arguments.get(name) != earlier.get(name)]:
        differences = ", ".join(f"{name} {earlier.get(name)}, now {arguments.get(name)}" for name in changed)
        logger.warning("this run was started with %s; its weights will not be bit-identical", differences)


def _differences(new: Arguments, old: Arguments) -> str:
    """Return the options of the earlier run that differ, the new ones, and what to pass."""
    same_images = new.get("data_sha256") == old.get("data_sha256")
    follow_from_images = ("--data",) if same_images else ("--mean", "--std")  # a folder may have been moved
    for before, now in zip(_options(old), _options(new), strict=True):
        changed = [name for name in before if before[name] != now[name] and name not in follow_from_images]
        if changed:
            earlier, later = (" ".join(_text(name, values[name]) for name in changed) for values in (before, now))
            return f"{earlier}, but this command has {later} (typed or by default); continue it with {earlier}"
    return "other images in --data, another --val-split or another version of netkit; pass the same ones"


def _options(arguments: Arguments) -> list[dict[str, Any]]:
    """Return the options that give these arguments. Those of a group can change the values of the later groups."""
    objects = (arguments.get(name) for name in ("recipe", "input"))
    recipe, images = (value if isinstance(value, dict) else {} for value in objects)
    weights = arguments.get("weights_sha256")
    names = ("epochs", "batch_size", "lr", "ema", "precision", "freeze")
    return [
        {"--arch": arguments.get("arch"), "--data": arguments.get("data"), "--recipe": recipe.get("name")},
        {
            "--seed": arguments.get("seed"),
            "--weights": weights and f"FILE with SHA-256 {weights[:12]}...",
            "--image-size": f"{images.get('height')}x{images.get('width')}",
            "--resize": images.get("resize"),
            "--channels": images.get("channels"),
            **{f"--{name.replace('_', '-')}": recipe.get(name) for name in names},
            "--patience": recipe.get("patience") or None,  # 0 is no value of the option
            "--class-weights": "balanced" if recipe.get("balanced") else "none",
            "--augment": augmentation(recipe),
        },
        {"--mean": arguments.get("mean"), "--std": arguments.get("std")},
    ]


def _text(name: str, value: object) -> str:
    """Return an option with its value as it is typed, or "no --option" if it is not set."""
    if isinstance(value, list):
        return f"{name} {','.join(map(str, value))}"
    if value is None or isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def data_of(run: Path, card: ModelCard, *, source: str | None = None) -> DataSet:
    """Load the data set of the run in the folder `run` from `source`; by default from the path in run.json.

    Raises ModelError if run.json has no path, DataError if its hash is not the card's, and the errors of registry.load.
    """
    hint = "" if source else f" (path from {run / ARGUMENTS}; if the data moved, pass --data)"
    if source is None:
        recorded = read(run).get("data")
        if not isinstance(recorded, str):
            raise ModelError(f"{run / ARGUMENTS}: contains no path of the data set; pass it with --data")
        source = recorded
    try:
        data = registry.load(source, Options.from_card(card))
    except NetkitError as exc:
        exc.args = (f"{exc}{hint}",)
        raise
    if data.sha256 != card.origin.data_sha256:
        raise DataError(
            f"{data.source}: is not the data set that this run was trained on, {card.origin.data}: the images, labels "
            "or file names differ; pass that data set with --data"
        )
    return data
