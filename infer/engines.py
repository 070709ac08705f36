"""Engines: what runs a job, this machine alone or workers on a cluster; and which of the options are for which."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from netkit.core.errors import MissingExtraError, UsageError
from netkit.core.progress import Advance
from netkit.core.system import usable_cores
from netkit.infer.job import Job, Outcome
from netkit.infer.job import run as run_job
from netkit.infer.runtime.session import Session


class Engine(Protocol):
    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        """Do the job on the paths, by the model that is open in `session`; errors as netkit.infer.job.run has them."""


class Local:
    """This process, and those that help it."""

    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        return run_job(job, session, paths, advance=advance)


@dataclass(frozen=True)
class OnRay:
    """Workers of Ray's, each with `device`, at `address` or on a cluster of its own; the model `proven` by each."""

    out: Path
    device: str
    proven: bool
    workers: int
    address: str | None

    def run(self, job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
        if not self.address:  # before Ray is imported: else it takes this machine's address in the network for its own
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
    """The engine of that name. Raises UsageError for options that it does not take, MissingExtraError without Ray."""
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
