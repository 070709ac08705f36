"""TensorBoard logs of a run: loss and learning rate of each step, and the metrics of each epoch.

torch's SummaryWriter writes events in a thread, and its caller sees a write error late or never. EventWriter writes
each event before the call returns.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from netkit.core.runs import LOGS
from netkit.nets.training.metrics import EpochMetrics


class EventWriter:
    """Writes the TensorBoard logs of the run in the folder `run`; continues them if `step` is above 0.

    Every method raises OSError, with the path of the folder, if an event cannot be written.
    """

    def __init__(self, run: Path, *, step: int, recipe: str) -> None:
        self._folder = run / LOGS
        self._folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self._folder / name, "wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if step:  # with this event TensorBoard hides later steps of earlier files
            self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            self._write(summary=summary.text("recipe", recipe))

    def write_step(self, step: int, *, loss: float, lr: float) -> None:
        self._write_scalars(step, {"step/loss": loss, "step/lr": lr})

    def write_epoch(self, row: EpochMetrics) -> None:
        columns = row.columns()
        names = [f"{split}_{metric}" for split in ("train", row.split) for metric in ("loss", "accuracy")]
        self._write_scalars(row.step, {name.replace("_", "/"): columns[name] for name in names})

    def close(self) -> None:
        self._file.close()

    def _write_scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._write(step=step, summary=summary.scalar(tag, value))

    def _write(self, **fields: Any) -> None:
        try:
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(self._folder)) from None
