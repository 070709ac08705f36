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
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{path}: cannot be read: {exc}") from None
    if not isinstance(arguments, dict):
        raise ModelError(f"{path}: not a JSON object")
    return arguments


def check_resumable(out: Path, arguments: Arguments, earlier: Arguments) -> None:
    """Raise UsageError if the run in `out` was started with `earlier` arguments that do not match `arguments`.

    If they differ only in MAY_DIFFER, log a warning that the weights will not be bit-identical.
    """
    new, old = _flat(arguments), _flat(earlier)
    changed = [name for name in new if new[name] != old.get(name)]
    if mismatches := [name for name in changed if name not in MAY_DIFFER]:
        differences = ", ".join(_difference(name, arguments, earlier) for name in mismatches)
        raise UsageError(
            f"{out}: this run was started with {differences}; pass the same values, or omit --resume to start again"
        )
    if changed:
        differences = ", ".join(f"{name} {old.get(name)}, now {new[name]}" for name in changed)
        logger.warning("this run was started with %s; its weights will not be bit-identical", differences)


def _difference(name: str, new: Arguments, old: Arguments) -> str:
    if name == "data_sha256":
        sources = [f"{arguments.get('data')} (SHA-256 {arguments.get('data_sha256')})" for arguments in (old, new)]
        return f"data {sources[0]}, not {sources[1]}"
    return f"{name.replace('_', ' ')} {_flat(old).get(name)}, not {_flat(new)[name]}"


def _flat(arguments: Arguments) -> dict[str, Any]:
    """Return the arguments to compare, with the recipe's fields on the top level."""
    recipe = arguments.get("recipe")
    fields = {name: arguments.get(name) for name in (*MUST_MATCH, *MAY_DIFFER) if name != "recipe"}
    return {**fields, **(recipe if isinstance(recipe, dict) else {})}


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
