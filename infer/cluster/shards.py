"""Shards: a run's inputs in numbered parts, and what makes a part's rows a Parquet file. Needs pyarrow."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netkit.core.errors import ModelError, NetkitError, UsageError
from netkit.core.remote import MIN_CONCURRENT_READS, is_remote
from netkit.images.decoder import Decoder, pillow_silenced
from netkit.infer.job import settings
from netkit.infer.model import onnx_file, verify
from netkit.infer.output import parquet
from netkit.infer.output.prediction import Counts, rows_of
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import MeanBrightness
from netkit.infer.runtime.session import Session, open_session

MODEL = "_model.onnx"
MOST_TRIES = 3  # of a shard, in a run
KEY = "netkit.shard"  # of a part's metadata: what it was made of, and what was counted


@dataclass(frozen=True)
class Shard:
    """Some of a run's inputs, in their order."""

    number: int
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its file's."""
        return f"part-{self.number:05}.parquet"

    @property
    def tries(self) -> str:
        """That of a file as long as it was begun often, which goes when it is made."""
        return f".{self.name}.tries"

    @staticmethod
    def from_json(text: str) -> "Shard":
        """Of what `to_json` gave."""
        number, paths = json.loads(text)
        return Shard(number, tuple(paths))

    def to_json(self) -> str:
        """In ASCII: paths need not be UTF-8."""
        return json.dumps([self.number, self.paths])


@dataclass(frozen=True)
class Made:
    """A shard whose file is there, with a tally's counts of its rows and its images' mean level, from 0 to 255; or why
    it is not there: a `fault` that is no row's.
    """

    number: int
    counts: dict[str, int] = field(default_factory=dict)
    level: float = 0.0
    provider: str = ""
    fault: str = ""

    @property
    def rows(self) -> int:
        return self.counts["ok"] + self.counts["failed"]


@dataclass(frozen=True)
class Plan:
    """What is done to each shard. Rows go to files in `folder`, which all workers see, and where the MODEL lies.

    Relative paths start in `home`, as that of `folder` does. All of it can be sent to another machine.
    """

    folder: Path
    model_sha256: str
    decoder: Decoder
    device: str
    batch_size: int
    top_k: int
    proven: bool
    home: Path = field(default_factory=Path.cwd)

    @property
    def settings(self) -> dict[str, Any]:
        """On what the rows depend, beside their inputs, and what was asked for of them."""
        given = settings(self.decoder, model_sha256=self.model_sha256, batch_size=self.batch_size, top_k=self.top_k)
        return {**given, "device": self.device, "no-verify": not self.proven}

    def identity(self, shard: Shard) -> str:
        """SHA-256 of all that the shard's rows depend on."""
        return hashlib.sha256(f"{json.dumps(self.settings)}{shard.to_json()}".encode()).hexdigest()

    def done(self, shard: Shard) -> Made | None:
        """The shard as it is, if its file is there and is of these inputs, this model and these settings."""
        noted = parquet.metadata(self.folder / shard.name).get(KEY, "{}")
        try:
            found: Mapping[str, Any] = json.loads(noted)
            return Made(**found["made"]) if found.get("identity") == self.identity(shard) else None
        except (ValueError, TypeError, KeyError):  # damaged
            return None


class Worker:
    """Opens the plan's model, once, where it runs, and makes shards. Nothing that it meets is raised: see Made."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._session: Session | None = None

    def __call__(self, shard: Shard) -> Made:
        try:
            self._go_home(shard)
            return self._plan.done(shard) or self._tried(shard)
        except (NetkitError, OSError) as fault:
            return Made(shard.number, fault=str(fault))

    def _tried(self, shard: Shard) -> Made:
        """Made, unless workers died of it again and again: then it would be tried for ever."""
        tries = self._plan.folder / shard.tries
        with open(tries, "ab") as file:
            file.write(b".")
            file.flush()
            if file.tell() > MOST_TRIES:
                span = f"its {len(shard.paths):,} inputs, {shard.paths[0]} to {shard.paths[-1]}"
                raise ModelError(
                    f"{shard.name}: {MOST_TRIES} workers died of it: by one of {span}, or for want of memory"
                )
        made = self._made(shard)
        tries.unlink(missing_ok=True)
        return made

    def _made(self, shard: Shard) -> Made:
        plan, session = self._plan, self._opened()
        workers = MIN_CONCURRENT_READS if any(map(is_remote, shard.paths)) else 1
        batch_size, paths = split_evenly(shard.paths, batch_size=plan.batch_size, workers=workers)
        brightness = MeanBrightness()
        batches = predict(
            session, paths, decoder=plan.decoder, batch_size=batch_size, workers=workers, brightness=brightness
        )
        counts = Counts(frozenset(session.card.labels))
        with pillow_silenced(), closing(batches):
            rows = [row for batch in batches for row in rows_of(batch, session.card.labels, top_k=plan.top_k)]
        counts.add(rows)
        made = Made(shard.number, counts.as_dict(), brightness.mean, session.provider)
        noted = {KEY: json.dumps({"identity": plan.identity(shard), "made": asdict(made)})}
        parquet.write(
            plan.folder / shard.name, (row.cells(plan.top_k) for row in rows), top_k=plan.top_k, metadata=noted
        )
        return made

    def _go_home(self, shard: Shard) -> None:
        """To where relative paths start; if there are none, that folder need not be here."""
        home = self._plan.home
        if not home.is_dir() and all(
            is_remote(path) or os.path.isabs(path) for path in (str(self._plan.folder), *shard.paths)
        ):
            return
        try:
            os.chdir(home)
        except OSError as fault:
            raise UsageError(
                f"{home}: where relative paths start is not to be had on {platform.node()}: {fault.strerror}"
            ) from None

    def _opened(self) -> Session:
        if self._session is None:
            plan = self._plan
            opened = verify.open_verified if plan.proven else open_session
            model = onnx_file.read(plan.folder / MODEL)
            if model.sha256 != plan.model_sha256:
                raise ModelError(f"{model.name}: another model than the run began with; leave out --resume")
            self._session = opened(model, device="cuda" if plan.device == "cuda" else "cpu", threads=1)
        return self._session
