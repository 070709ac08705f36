"""Shards, the numbered parts of a run's inputs, and the worker that writes a Parquet file per shard. Needs pyarrow."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from netkit.core.errors import ModelError, NetkitError, UsageError
from netkit.core.remote import MIN_CONCURRENT_READS, is_remote
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.infer.job import settings
from netkit.infer.model import onnx_file, verify
from netkit.infer.output import parquet
from netkit.infer.output.folder_labels import TrueLabel, folder_labels
from netkit.infer.output.prediction import Counts, rows_of
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import MeanBrightness
from netkit.infer.runtime.session import Session, open_session

MODEL_FILE = "_model.onnx"
MAX_ATTEMPTS = 3  # to process a shard, in one run
METADATA_KEY = "netkit.shard"  # of a shard's Parquet file; its value is JSON with the shard's identity and result


@dataclass(frozen=True)
class Shard:
    """Consecutive inputs of a run."""

    number: int
    paths: tuple[str, ...]

    @property
    def file_name(self) -> str:
        return f"part-{self.number:05}.parquet"

    @property
    def attempts_file_name(self) -> str:
        """The name of a file with one byte per attempt, which is deleted when the shard is complete."""
        return f".{self.file_name}.tries"

    @staticmethod
    def from_json(text: str) -> "Shard":
        number, paths = json.loads(text)
        return Shard(number, tuple(paths))

    def to_json(self) -> str:
        """Return ASCII text, because paths need not be valid UTF-8."""
        return json.dumps([self.number, self.paths])


@dataclass(frozen=True)
class ShardResult:
    """The counts of a shard's rows and the mean brightness of its images, from 0 to 255.

    If the shard's file could not be written, `error` says why, and only `number` is set besides. An image that cannot
    be read is not such an error: it has its own row.
    """

    number: int
    counts: dict[str, int] = field(default_factory=dict)
    mean_brightness: float = 0.0
    provider: str = ""
    error: str = ""

    @property
    def rows(self) -> int:
        return self.counts["ok"] + self.counts["failed"]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields with the keys in the metadata of shards' files; earlier runs are resumed with them."""
        return {
            "number": self.number,
            "counts": self.counts,
            "level": self.mean_brightness,
            "provider": self.provider,
            "fault": self.error,
        }

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "ShardResult":
        """Build a result from the fields that `as_dict` returns. Raises KeyError if one is missing."""
        return ShardResult(stored["number"], stored["counts"], stored["level"], stored["provider"], stored["fault"])


@dataclass(frozen=True)
class Plan:
    """The settings of a run. They are sent to its workers, which may be on other machines.

    `inputs` are the arguments that the user gave. Workers read MODEL_FILE in `folder`, which all of them see, and write
    their rows there. Relative paths, that of `folder` included, start in `working_dir`. If `verified`, a worker only
    runs a model that passes its own checks.
    """

    folder: Path
    model_sha256: str
    decoder: Decoder
    device: str
    batch_size: int
    top_k: int
    verified: bool
    old_statuses: bool = False
    inputs: tuple[str, ...] = ()
    working_dir: Path = field(default_factory=Path.cwd)

    @property
    def settings(self) -> dict[str, Any]:
        """All that rows depend on except their inputs, and the requested device and verification."""
        common = settings(
            self.decoder,
            model_sha256=self.model_sha256,
            batch_size=self.batch_size,
            top_k=self.top_k,
            old_statuses=self.old_statuses,
        )
        return {**common, "device": self.device, "no-verify": not self.verified}

    def identity(self, shard: Shard) -> str:
        """Hash all that the shard's rows depend on, with SHA-256."""
        return hashlib.sha256(f"{json.dumps(self.settings)}{shard.to_json()}".encode()).hexdigest()

    def stored_result(self, shard: Shard) -> ShardResult | None:
        """Return the result of the shard if its file is intact and matches its inputs and this plan."""
        text = parquet.metadata(self.folder / shard.file_name).get(METADATA_KEY, "{}")
        try:
            metadata: Mapping[str, Any] = json.loads(text)
            return ShardResult.from_dict(metadata["made"]) if metadata["identity"] == self.identity(shard) else None
        except (ValueError, TypeError, KeyError):  # damaged
            return None


class Worker:
    """Processes shards on the machine that calls it, with a model that it opens once.

    Calls raise neither NetkitError nor OSError: they return the message in `ShardResult.error`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._session: Session | None = None

    def __call__(self, shard: Shard) -> ShardResult:
        try:
            self._enter_working_dir(shard)
            return self._plan.stored_result(shard) or self._process_counted(shard)
        except (NetkitError, OSError) as exc:
            return ShardResult(shard.number, error=str(exc))

    def _process_counted(self, shard: Shard) -> ShardResult:
        """Count the attempt on disk, then process the shard. A shard that crashes its workers is given up."""
        attempts = self._plan.folder / shard.attempts_file_name
        with open(attempts, "ab") as file:
            file.write(b".")
            file.flush()
            if file.tell() > MAX_ATTEMPTS:
                raise ModelError(
                    f"{shard.file_name}: {MAX_ATTEMPTS} workers died on its {len(shard.paths):,} inputs "
                    f"({shard.paths[0]} to {shard.paths[-1]}), for lack of memory or because of an image"
                )
        result = self._process(shard)
        attempts.unlink(missing_ok=True)
        return result

    def _process(self, shard: Shard) -> ShardResult:
        plan, session = self._plan, self._open_session()
        threads = MIN_CONCURRENT_READS if any(map(is_remote, shard.paths)) else 1
        batch_size, paths = split_evenly(shard.paths, batch_size=plan.batch_size, workers=threads)
        brightness = MeanBrightness()
        batches = predict(
            session, paths, decoder=plan.decoder, batch_size=batch_size, workers=threads, brightness=brightness
        )
        labels = session.card.labels
        counts = Counts(self._true_label)
        with suppress_pillow_warnings(), closing(batches):
            rows = [
                row
                for batch in batches
                for row in rows_of(batch, labels, top_k=plan.top_k, old_statuses=plan.old_statuses)
            ]
        counts.add(rows)
        result = ShardResult(shard.number, counts.as_dict(), brightness.mean, session.provider)
        metadata = {METADATA_KEY: json.dumps({"identity": plan.identity(shard), "made": result.as_dict()})}
        path = plan.folder / shard.file_name
        parquet.write(path, (row.cells(plan.top_k) for row in rows), top_k=plan.top_k, metadata=metadata)
        return result

    @cached_property
    def _true_label(self) -> TrueLabel:
        return folder_labels(self._open_session().card.labels, self._plan.inputs)

    def _enter_working_dir(self, shard: Shard) -> None:
        """Change to the run's working directory. If no path is relative, it need not exist on this machine."""
        working_dir = self._plan.working_dir
        if not working_dir.is_dir() and all(
            is_remote(path) or os.path.isabs(path) for path in (str(self._plan.folder), *shard.paths)
        ):
            return
        try:
            os.chdir(working_dir)
        except OSError as exc:
            raise UsageError(
                f"{working_dir}: cannot be opened on {platform.node()}: {exc.strerror}; pass absolute paths"
            ) from None

    def _open_session(self) -> Session:
        if self._session is None:
            plan = self._plan
            open_model = verify.open_verified if plan.verified else open_session
            model = onnx_file.read(plan.folder / MODEL_FILE)
            if model.sha256 != plan.model_sha256:
                raise ModelError(f"{model.name}: not the model of this run; omit --resume to start again")
            self._session = open_model(model, device="cuda" if plan.device == "cuda" else "cpu", threads=1)
        return self._session
