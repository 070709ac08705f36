"""Logs of a run for TensorBoard: loss and learning rate by step, and the metrics of each epoch.

Events are written at once: torch's SummaryWriter leaves them to a thread, whose errors reach the caller at some later
event, or never.
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


class Board:
    """The logs in the folder `run`, new, or continued after `step` steps.

    Each method raises OSError, with the folder's path, if an event cannot be written.
    """

    def __init__(self, run: Path, *, step: int, recipe: str) -> None:
        self._folder = run / LOGS
        self._folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self._folder / name, "wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if step:  # TensorBoard then hides events from here on in earlier files
            self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            self._write(summary=summary.text("recipe", recipe))

    def step(self, step: int, *, loss: float, lr: float) -> None:
        self._scalars(step, {"step/loss": loss, "step/lr": lr})

    def epoch(self, row: EpochMetrics) -> None:
        names = [f"{part}_{what}" for part in ("train", "test") for what in ("loss", "accuracy")]
        self._scalars(row.step, {name.replace("_", "/"): getattr(row, name) for name in names})

    def close(self) -> None:
        self._file.close()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._write(step=step, summary=summary.scalar(tag, value))

    def _write(self, **fields: Any) -> None:
        try:
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(self._folder)) from None
