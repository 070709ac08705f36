"""Job: one run of a model over many inputs, from the options to the last row."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from netkit.core.progress import Advance
from netkit.core.remote import MIN_CONCURRENT_READS, is_remote
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder, pillow_silenced
from netkit.infer.output.prediction import Counts, rows_of
from netkit.infer.output.results_file import Results, open_results
from netkit.infer.output.writers import Printed, Write
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.runtime.session import Session


@dataclass(frozen=True)
class Job:
    """What to run.

    `inputs` are as the user named them. `threads` batches of at most `batch_size` images run at once; None means one
    for each core. Rows have `top_k` labels and go to `out`, a function that writes them or a results file, which
    `resume` continues.
    """

    inputs: tuple[str, ...]
    decoder: Decoder
    batch_size: int
    threads: int | None
    top_k: int
    out: Path | Write
    resume: bool


def settings(decoder: Decoder, *, model_sha256: str, batch_size: int, top_k: int) -> dict[str, Any]:
    """What the rows depend on besides the inputs and the provider. A resumed run must have the same."""
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
    """The counts of all rows; the speed in images per second and the provider, "" if nothing had to be run."""

    counts: Counts
    images_per_s: float
    provider: str

    def __str__(self) -> str:
        return f"{self.counts} ({self.images_per_s:,.0f}/s, {self.provider})" if self.provider else str(self.counts)


def run(job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
    """Write a row for each of `paths`, which `job.inputs` stand for. `advance` is called as rows are made.

    Raises UsageError if the results file cannot be written or resumed, ModelError if the model fails.
    """
    started = time.monotonic()
    first = next(paths, None)
    paths = paths if first is None else chain([first], paths)
    remote = first is not None and is_remote(first)
    cores = usable_cores()
    workers = job.threads or max(cores, MIN_CONCURRENT_READS) if remote else min(job.threads or cores, cores)
    batch_size, inputs = split_evenly(paths, batch_size=job.batch_size, workers=workers)
    counts = Counts(frozenset(session.card.labels))
    with _sink(job, session, batch_size, counts) as sink:
        before = counts.total
        advance(before, "")
        batches = predict(
            session,
            sink.remaining(inputs),
            decoder=job.decoder,
            batch_size=batch_size,
            workers=workers,
            # a few images are done before a process has started; remote files keep threads waiting, not computing
            processes=batch_size == job.batch_size and workers > 1 and session.can_fork and not remote,
            brightness=BrightnessCheck(card=session.card, inverted=job.decoder.invert),
        )
        with pillow_silenced(), closing(batches):
            for predictions in batches:
                sink.write(rows_of(predictions, session.card.labels, top_k=job.top_k))
                advance(len(predictions.paths), "")
    made = counts.total - before
    return Outcome(counts, made / (time.monotonic() - started), session.provider if made else "")


def _sink(job: Job, session: Session, batch_size: int, counts: Counts) -> AbstractContextManager[Results | Printed]:
    if not isinstance(job.out, Path):
        return nullcontext(Printed(job.out, counts))
    arguments = {
        "inputs": list(job.inputs),
        "provider": session.provider,
        **settings(job.decoder, model_sha256=session.model.sha256, batch_size=batch_size, top_k=job.top_k),
    }
    return open_results(job.out, top_k=job.top_k, counts=counts, arguments=arguments, resume=job.resume)
