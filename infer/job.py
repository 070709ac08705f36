"""Job: one run of a model over many inputs, from what was asked for to the last row."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from netkit.core.progress import Advance
from netkit.core.remote import AT_ONCE, is_remote
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder, pillow_silenced
from netkit.infer.output.results_file import Results, open_results
from netkit.infer.output.writers import Printed, Tally, Write
from netkit.infer.pipeline import batches as pipeline
from netkit.infer.pipeline.brightness import Judge
from netkit.infer.runtime.session import Session


@dataclass(frozen=True)
class Job:
    """What to do with the `inputs` that were named.

    Batches are of up to `batch_size` images, and `threads` of them at work at once, by default one for each core. Rows
    have `top_k` labels and go to `out`: what writes them, or a results file, of which with `resume` the run that was
    stopped is gone on with.
    """

    inputs: tuple[str, ...]
    decoder: Decoder
    batch_size: int
    threads: int | None
    top_k: int
    out: Path | Write
    resume: bool


def settings(decoder: Decoder, *, model_sha256: str, batch_size: int, top_k: int) -> dict[str, Any]:
    """On what rows depend, beside their inputs and the provider: a run that is gone on with has the same."""
    return {
        "model": model_sha256,
        "batch size": batch_size,
        "top-k": top_k,
        "invert": decoder.invert,
        "max-bytes": decoder.largest_file,
        "max-pixels": decoder.largest_image,
    }


@dataclass(frozen=True)
class Outcome:
    """The counts of all rows, and how many a second were made, on which provider; "" where nothing had to be run."""

    tally: Tally
    per_s: float
    provider: str

    def __str__(self) -> str:
        return f"{self.tally} ({self.per_s:,.0f}/s, {self.provider})" if self.provider else str(self.tally)


def run(job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
    """Do the job on the `paths` that its inputs stand for; tells `advance` of rows as they are made.

    Raises UsageError where the results file cannot be written or gone on with, ModelError where the model fails.
    """
    started = time.monotonic()
    first = next(paths, None)
    paths = paths if first is None else chain([first], paths)
    far = first is not None and is_remote(first)
    workers = job.threads or max(usable_cores(), AT_ONCE) if far else min(job.threads or usable_cores(), usable_cores())
    size, paths = pipeline.shared_out(paths, batch_size=job.batch_size, workers=workers)
    tally = Tally(frozenset(session.card.labels))
    with _sink(job, session, size, tally) as sink:
        before = tally.count
        advance(before, "")
        rest = sink.rest(paths)
        batches = pipeline.infer(
            session,
            rest,
            decoder=job.decoder,
            batch_size=size,
            workers=workers,
            top_k=job.top_k,
            # few are done before a process has begun; and threads wait for files far away as well as processes
            forks=size == job.batch_size and session.can_fork and not far,
            light=Judge(card=session.card, inverted=job.decoder.invert),
        )
        with pillow_silenced(), closing(batches):
            for rows in batches:
                sink.write(rows)
                advance(len(rows), "")
    return Outcome(tally, (tally.count - before) / (time.monotonic() - started), session.provider)


def _sink(job: Job, session: Session, size: int, tally: Tally) -> AbstractContextManager[Results | Printed]:
    if not isinstance(job.out, Path):
        return nullcontext(Printed(job.out, tally))
    arguments = {
        "inputs": list(job.inputs),
        "provider": session.provider,
        **settings(job.decoder, model_sha256=session.model.sha256, batch_size=size, top_k=job.top_k),
    }
    return open_results(job.out, top_k=job.top_k, tally=tally, arguments=arguments, resume=job.resume)
