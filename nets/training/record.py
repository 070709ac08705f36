"""run.json: the arguments of a run, for --resume and to find its data set again."""

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

logger = logging.getLogger(__name__)

# arguments that must be equal to resume a run
DECISIVE = ("arch", "seed", "data_sha256", "input", "mean", "std", "weights_sha256", "recipe")
# arguments that change the weights in their last digits only
CIRCUMSTANCES = ("device", "threads", "processes", "compiled", "deterministic", "torch")

Arguments = Mapping[str, Any]


def write(out: Path, arguments: Arguments) -> None:
    """Write run.json into the folder `out`."""
    write_atomic(out / ARGUMENTS, json.dumps(arguments, indent=2).encode() + b"\n")


def read(out: Path) -> dict[str, Any]:
    """The arguments in run.json in the folder `out`. Raises ModelError if it is missing or damaged."""
    path = out / ARGUMENTS
    try:
        arguments = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{path}: cannot be read: {exc}") from None
    if not isinstance(arguments, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return arguments


def refuse_another(out: Path, arguments: Arguments, earlier: Arguments) -> None:
    """Raise UsageError if the run in `out` was started with `earlier` arguments that differ in a decisive one.

    If only circumstances differ, log a warning: the weights will not be equal to the bit.
    """
    new, old = _flat(arguments), _flat(earlier)
    changed = [name for name in new if new[name] != old.get(name)]
    if decisive := [name for name in changed if name not in CIRCUMSTANCES]:
        differences = ", ".join(_difference(name, arguments, earlier) for name in decisive)
        raise UsageError(
            f"{out}: this run was started with {differences}; resume it with the same, or leave out --resume"
        )
    if changed:
        differences = ", ".join(f"{name} {old.get(name)}, now {new[name]}" for name in changed)
        logger.warning(
            "warning: the run was started with %s: its weights will differ in their last digits", differences
        )


def _difference(name: str, new: Arguments, old: Arguments) -> str:
    if name == "data_sha256":
        sources = [f"{arguments.get('data')} (SHA-256 {arguments.get('data_sha256')})" for arguments in (old, new)]
        return f"data {sources[0]}, not {sources[1]}"
    return f"{name.replace('_', ' ')} {_flat(old).get(name)}, not {_flat(new)[name]}"


def _flat(arguments: Arguments) -> dict[str, Any]:
    """The arguments that are compared, with the fields of the recipe beside the others."""
    recipe = arguments.get("recipe")
    fields = {name: arguments.get(name) for name in (*DECISIVE, *CIRCUMSTANCES) if name != "recipe"}
    return {**fields, **(recipe if isinstance(recipe, dict) else {})}


def data_of(run: Path, card: ModelCard, *, source: str | None = None) -> DataSet:
    """The data set of the run in the folder `run`, from `source`, or from where run.json says it is.

    Raises ModelError if neither is known, DataError if the data set cannot be loaded or is not that of the card.
    """
    hint = "" if source else f" (so says {run / ARGUMENTS}; if the data moved, use --data)"
    if source is None:
        recorded = read(run).get("data")
        if not isinstance(recorded, str):
            raise ModelError(f"{run / ARGUMENTS}: does not say where the data is; use --data")
        source = recorded
    try:
        data = registry.load(source, Options.of(card))
    except NetkitError as exc:
        raise DataError(f"{exc}{hint}") from None
    if data.sha256 != card.origin.data_sha256:
        raise DataError(
            f"{data.source}: not the data set that the run was trained on ({card.origin.data}): "
            f"SHA-256 {data.sha256}, not {card.origin.data_sha256}"
        )
    return data
