"""One inference run from its options to its outcome, by an engine: this machine alone, or workers on a cluster."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from netkit.core.errors import MissingExtraError, UsageError
from netkit.core.progress import Advance, Progress, counted
from netkit.core.remote import is_remote
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder
from netkit.infer.job import Job, Outcome
from netkit.infer.job import run as run_job
from netkit.infer.output import writers
from netkit.infer.pipeline.inputs import STDIN, find_inputs
from netkit.infer.predictor import open_model
from netkit.infer.runtime.session import Session

logger = logging.getLogger(__name__)


class Engine(Protocol):
    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        """Run the job on the paths with the open model. Raises what netkit.infer.job.run raises."""


class Local:
    """This machine: the calling process, its threads and its forks."""

    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        return run_job(job, session, paths, advance=advance)


@dataclass(frozen=True)
class OnRay:
    """Ray workers on the cluster at `address`, or on one started for this run.

    Each worker runs the model on `device`; with `proven`, only if it passes its own checks there.
    """

    out: Path
    device: str
    proven: bool
    workers: int
    address: str | None

    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        if not self.address:  # set before Ray is imported: Ray then binds to loopback, not to a network address
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        from netkit.infer.cluster import driver, ray_engine, shards

        plan = shards.Plan(
            self.out, session.model.sha256, job.decoder, self.device, job.batch_size, job.top_k, self.proven
        )
        return driver.run(
            plan,
            session.model,
            job.inputs,
            paths,
            ray_engine.engine(self.address, self.workers),
            workers=self.workers,
            resume=job.resume,
            advance=advance,
        )


def chosen(
    name: str,
    *,
    out: Path | None,
    device: str,
    proven: bool,
    threads: int | None,
    workers: int | None,
    address: str | None,
) -> Engine:
    """The engine called `name`. Raises UsageError for an option it does not take, MissingExtraError without Ray."""
    if name == "local":
        if workers or address:
            raise UsageError(
                "--workers and --address are for --engine ray; --threads says how much is done at once here"
            )
        return Local()
    if out is None:
        raise UsageError("--engine ray writes numbered files: name a folder for them with --out")
    if threads:
        raise UsageError("--threads is for --engine local; --workers says how many work at once with ray")
    if not find_spec("ray"):
        raise MissingExtraError("ray", "cluster")
    return OnRay(out, device, proven, workers or usable_cores(), None if address == "local" else address)


def infer(
    paths: tuple[str, ...],
    *,
    model: Path | None,
    arch: str | None,
    device: str,
    batch_size: int,
    threads: int | None,
    top_k: int,
    invert: bool,
    max_bytes: int,
    max_pixels: int,
    separator: bytes,
    verify: bool,
    out: Path | None,
    as_json: bool,
    resume: bool,
    engine: str,
    workers: int | None,
    address: str | None,
    progress: Progress | None,
) -> Outcome:
    """Run a model over all inputs that `paths` stand for, and write one row for each to `out`, or to stdout.

    The model is the file `model`, that of the run of `arch`, or else the newest in runs/. `separator` ends each path on
    stdin. The inputs are counted first if `progress` is given and they are local files.

    Raises UsageError if an option or a path is wrong, ModelError if the model fails or does not pass its checks, and
    DeviceError if the device cannot be used.
    """
    if resume and out is None:
        raise UsageError("--resume goes on with a results file: name it with --out")
    runs = chosen(engine, out=out, device=device, proven=verify, threads=threads, workers=workers, address=address)
    inputs = find_inputs(paths, separator=separator)  # before the model is opened: a wrong path costs no time
    here = "cpu" if engine == "ray" else device  # the workers' machines may have a device that this one lacks
    session = open_model(model, arch=arch, device=here, verify=verify)
    decoder = Decoder(session.card.input, invert=invert, largest_file=max_bytes, largest_image=max_pixels)
    top_k = min(top_k, len(session.card.labels))
    sink = out or writers.stdout_writer(as_json=as_json, top_k=top_k)
    job = Job(paths, decoder, batch_size, threads, top_k, sink, resume)
    countable = STDIN not in paths and not any(map(is_remote, paths))
    total = sum(1 for _ in find_inputs(paths)) if progress and countable else None
    return runs.run(job, session, inputs, advance=counted(progress, total))
