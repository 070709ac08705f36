"""training.safetensors: a training that has not ended, to go on from. It is gone when the weights are there."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import ModelError
from netkit.nets.training import tensorfile
from netkit.nets.training.metrics import EpochMetrics
from netkit.nets.training.trainer import Snapshot, Training

KEY = "netkit.training"  # in the safetensors header


def save(path: Path, snapshot: Snapshot, arguments: Mapping[str, Any]) -> None:
    """Write a snapshot of the run that was started with these arguments, whole or not at all."""
    numbers = {
        "arguments": arguments,
        "step": snapshot.step,
        "rows": [asdict(row) for row in snapshot.rows],
        "scaler": snapshot.scaler,
    }
    write_atomic(path, tensorfile.content(snapshot.tensors, KEY, numbers))


def load(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """The snapshot in the file `path`, and its run's arguments. Raises ModelError where the file is damaged."""
    try:
        tensors, numbers = tensorfile.read(path, KEY)
        rows = tuple(EpochMetrics(**row) for row in numbers["rows"])
        return Snapshot(tensors, numbers["step"], rows, numbers["scaler"]), numbers["arguments"]
    except ModelError as fault:
        raise ModelError(f"{fault}; train anew without --resume") from None
    except (KeyError, TypeError) as fault:  # of another netkit
        raise ModelError(f"{path}: cannot be resumed from ({fault}); train anew without --resume") from None


def restore(training: Training, snapshot: Snapshot, path: Path) -> None:
    """Let `training` go on from the snapshot that was in `path`. Raises ModelError where it is none of its net's."""
    try:
        training.restore(snapshot)
    except (KeyError, RuntimeError, TypeError, ValueError) as fault:
        raise ModelError(f"{path}: does not fit this net ({fault}); train anew without --resume") from None
