"""Engines: run an inference job on this machine, or with Ray workers on a cluster."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from netkit.core.errors import MissingExtraError, UsageError
from netkit.core.progress import Advance, Progress, cumulative
from netkit.core.remote import is_remote, local_path
from netkit.core.system import usable_cores
from netkit.data.image_entry import TEST, VAL, split_of
from netkit.images.decoder import Decoder
from netkit.images.files import Skipped
from netkit.infer.job import Job, Outcome
from netkit.infer.job import run as run_job
from netkit.infer.output import writers
from netkit.infer.output.results_file import SUFFIXES, check_path
from netkit.infer.pipeline.inputs import STDIN, find_inputs
from netkit.infer.predictor import open_model
from netkit.infer.runtime.session import Session

logger = logging.getLogger(__name__)

MAX_THREADS_PER_CORE = 64  # most of them wait for remote files


class Engine(Protocol):
    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        """Run the job on the paths with the open model. Raises the exceptions of netkit.infer.job.run."""


class LocalEngine:
    """Runs a job in this process, its threads and its forks."""

    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        return run_job(job, session, paths, advance=advance)


@dataclass(frozen=True)
class RayEngine:
    """Runs a job with Ray workers on the cluster at `address`, or on a cluster started for this run.

    Each worker runs the model on `device`. With `verified`, it first verifies the model there.
    """

    out: Path
    device: str
    verified: bool
    workers: int
    address: str | None

    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        if not self.address:  # makes Ray bind to loopback, not to a network address; Ray reads it when imported
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        from netkit.infer.cluster import driver, ray_engine, shards

        plan = shards.Plan(
            self.out,
            session.model.sha256,
            job.decoder,
            self.device,
            job.batch_size,
            job.top_k,
            self.verified,
            job.old_statuses,
            job.inputs,
        )
        return driver.run(
            plan,
            session.model,
            paths,
            ray_engine.engine(self.address, self.workers),
            workers=self.workers,
            resume=job.resume,
            advance=advance,
        )


def choose_engine(
    name: str,
    *,
    out: Path | None,
    device: str,
    verified: bool,
    threads: int | None,
    workers: int | None,
    address: str | None,
) -> Engine:
    """Return the engine called `name`, "local" or "ray".

    Raises UsageError for an option that the engine does not take or for an `out` that cannot be written;
    MissingExtraError if a package is missing.
    """
    if name == "local":
        if workers or address:
            raise UsageError("--workers and --address are for --engine ray; pass --threads with --engine local")
        if threads and threads > (most := MAX_THREADS_PER_CORE * usable_cores()):
            raise UsageError(f"--threads {threads}: must be at most {most}, {MAX_THREADS_PER_CORE} for each core")
        if out is not None:
            check_path(out)  # at once, not after the model is opened
        return LocalEngine()
    if out is None:
        raise UsageError("--engine ray writes several files; pass a folder with --out")
    if out.suffix.lower() in SUFFIXES:
        raise UsageError(
            f"--out {out}: --engine ray writes a folder of .parquet files; pass a name without {out.suffix}"
        )
    if threads:
        raise UsageError("--threads is for --engine local; pass --workers with --engine ray")
    if not find_spec("ray"):
        raise MissingExtraError("ray", "cluster")
    return RayEngine(out, device, verified, workers or usable_cores(), None if address == "local" else address)


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
    path_column: str,
    verify: bool,
    out: Path | None,
    as_json: bool,
    resume: bool,
    old_statuses: bool,
    engine: str,
    workers: int | None,
    address: str | None,
    progress: Progress | None,
) -> Outcome:
    """Run a model over all inputs in `paths`, and write one row for each to `out`, or to stdout.

    `paths` are files, folders, glob patterns, URLs, tables and Parquet files with the column `path_column`, and "-" for
    stdin, where `separator` ends each path. What the walks of folders skip is logged.
    The model is the file `model`, the one in the run folder of `arch`, or by default the newest in runs/. If `progress`
    is given and the inputs are local files, they are counted first. `old_statuses` is as in `prediction.rows_of`.

    Raises UsageError if an option or a path is wrong, ModelError if the model fails or does not pass verification, and
    DeviceError if the device cannot be used.
    """
    if resume and out is None:
        raise UsageError("--resume requires --out, the results to continue")
    engine_for_job = choose_engine(
        engine, out=out, device=device, verified=verify, threads=threads, workers=workers, address=address
    )
    skipped = Skipped()
    # before the model is opened, to fail at once for a wrong path
    inputs = find_inputs(paths, separator=separator, path_column=path_column, skipped=skipped)
    local_device = "cpu" if engine == "ray" else device  # this machine may lack the device that the workers have
    session = open_model(model, arch=arch, device=local_device, verify=verify)
    decoder = Decoder(session.card.input, invert=invert, max_bytes=max_bytes, max_pixels=max_pixels)
    if top_k > (labels := len(session.card.labels)):
        raise UsageError(f"--top-k {top_k}: must be at most {labels}, the number of labels of the model")
    sink = out or writers.stdout_writer(as_json=as_json, top_k=top_k)
    job = Job(paths, decoder, batch_size, threads, top_k, sink, resume, old_statuses)
    countable = STDIN not in paths and not any(map(is_remote, paths))
    total = sum(1 for _ in find_inputs(paths, path_column=path_column)) if progress and countable else None
    outcome = engine_for_job.run(job, session, inputs, advance=cumulative(progress, total))
    if skipped:
        logger.info("%s", skipped)
    if outcome.counts.labelled and any(_may_be_training_data(path, session.card.origin.data) for path in paths):
        logger.info(
            "the accuracy may include training images, because the model was trained on a data set called %s; "
            "'netkit evaluate' measures only images that were not trained on",
            session.card.origin.data,
        )
    return outcome


def _may_be_training_data(path: str, data: str) -> bool:
    """Whether an input is in a folder called `data`, but not in its test or validation split."""
    names = os.path.abspath(local_path(path)).split(os.sep)
    if data not in names:
        return False
    from netkit.data.registry import BUILT_IN  # here, because the import takes 20 ms

    folders_below = names[names.index(data) + 1 :]
    return data not in BUILT_IN and not {*map(split_of, folders_below)} & {TEST, VAL}
