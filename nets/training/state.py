"""training.safetensors: the saved state of an unfinished training. The file is removed when the run is complete."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import ModelError
from netkit.nets.training import tensorfile
from netkit.nets.training.metrics import EpochMetrics

KEY = "netkit.training"  # in the safetensors header


class Snapshot(NamedTuple):
    """The state of a training run between two steps. With the arguments of the run, it determines the next step.

    `rows` are the metrics of the finished epochs; `scaler` is the state of float16's loss scaling, empty in other
    precisions.
    """

    tensors: dict[str, Tensor]
    step: int
    rows: tuple[EpochMetrics, ...]
    scaler: dict[str, Any]


def save(path: Path, snapshot: Snapshot, arguments: Mapping[str, Any]) -> None:
    """Write a snapshot and the arguments of its run to `path` atomically."""
    header = {
        "arguments": arguments,
        "step": snapshot.step,
        "rows": [asdict(row) for row in snapshot.rows],
        "scaler": snapshot.scaler,
    }
    write_atomic(path, tensorfile.content(snapshot.tensors, KEY, header))


def load(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Load a snapshot and the arguments of its run. Raises ModelError if the file is damaged."""
    try:
        tensors, header = tensorfile.read(path, KEY)
        rows = tuple(EpochMetrics(**row) for row in header["rows"])
        return Snapshot(tensors, header["step"], rows, header["scaler"]), header["arguments"]
    except ModelError as exc:
        raise ModelError(f"{exc}; omit --resume to start again") from None
    except (KeyError, TypeError) as exc:  # written by another version of netkit
        raise ModelError(f"{path}: cannot be resumed from ({exc}); omit --resume to start again") from None
