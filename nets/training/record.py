"""run.json: what a run was asked to do, for --resume and to find its data set again."""

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

# with other values it is another run
DECISIVE = ("arch", "seed", "data_sha256", "input", "mean", "std", "weights_sha256", "recipe")
# with other values of these the weights differ in their last digits
CIRCUMSTANCES = ("device", "threads", "processes", "compiled", "deterministic", "torch")

Arguments = Mapping[str, Any]


def write(out: Path, arguments: Arguments) -> None:
    """Write run.json into the folder `out`."""
    write_atomic(out / ARGUMENTS, json.dumps(arguments, indent=2).encode() + b"\n")


def read(out: Path) -> dict[str, Any]:
    """What run.json in the folder `out` says. Raises ModelError where there is none or it is damaged."""
    try:
        found = json.loads((out / ARGUMENTS).read_text())
    except (OSError, ValueError, RecursionError) as fault:
        raise ModelError(f"{out / ARGUMENTS}: cannot be read: {fault}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{out / ARGUMENTS}: holds no arguments of a run")
    return found


def refuse_another(out: Path, asked: Arguments, earlier: Arguments) -> None:
    """Raise UsageError where a run with the arguments `asked` would be another than the `earlier` one in `out`.

    Where only its circumstances differ, say so: the weights will not be the same to the bit.
    """
    names = [f"{arguments.get('data')} (SHA-256 {arguments.get('data_sha256')})" for arguments in (earlier, asked)]
    asked, earlier = _flat(asked), _flat(earlier)
    others = [name for name in asked if name not in CIRCUMSTANCES and asked[name] != earlier.get(name)]
    if others:
        told = ", ".join(
            f"data {names[0]}, not {names[1]}"
            if name == "data_sha256"
            else f"{name.replace('_', ' ')} {earlier.get(name)}, not {asked[name]}"
            for name in others
        )
        raise UsageError(f"{out}: this run was started with {told}; resume it with the same, or leave out --resume")
    changed = [name for name in CIRCUMSTANCES if asked[name] != earlier.get(name)]
    if changed:
        told = ", ".join(f"{name} {earlier.get(name)}, now {asked[name]}" for name in changed)
        logger.warning("warning: the run was started with %s: its weights will differ in their last digits", told)


def _flat(arguments: Arguments) -> dict[str, Any]:
    recipe = arguments.get("recipe")
    fields = {name: arguments.get(name) for name in (*DECISIVE, *CIRCUMSTANCES) if name != "recipe"}
    return {**fields, **(recipe if isinstance(recipe, dict) else {})}


def data_of(run: Path, card: ModelCard, *, source: str | None = None) -> DataSet:
    """The data set that the run in that folder was trained on, from where run.json says it lies, or from `source`.

    Raises ModelError where neither is known, DataError where the data set is not to be had, or not that of the card.
    """
    told = "" if source else f" (so says {run / ARGUMENTS}; if the data moved, use --data)"
    if source is None:
        found = read(run).get("data")
        if not isinstance(found, str):
            raise ModelError(f"{run / ARGUMENTS}: does not say where the data lies; use --data")
        source = found
    try:
        data = registry.load(source, Options.of(card))
    except NetkitError as fault:
        raise DataError(f"{fault}{told}") from None
    if data.sha256 != card.origin.data_sha256:
        raise DataError(
            f"{data.source}: not the data set that the run was trained on ({card.origin.data}): "
            f"SHA-256 {data.sha256}, not {card.origin.data_sha256}"
        )
    return data
