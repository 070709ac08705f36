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
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.infer.output.folder_labels import folder_labels
from netkit.infer.output.prediction import Counts, rows_of
from netkit.infer.output.results_file import Results, open_results
from netkit.infer.output.writers import RowPrinter, Write
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.runtime.providers import NAMES
from netkit.infer.runtime.session import Session

MAX_SHORT_S = 10  # a shorter duration is printed with decimals


@dataclass(frozen=True)
class Job:
    """The options of a run.

    `inputs` are the arguments that the user gave. `threads` batches of at most `batch_size` images run at once; None
    means one for each core. Rows have `top_k` labels and go to `out`: a results file, which `resume` continues, or a
    function that writes rows. `old_statuses` is as in `prediction.rows_of`.
    """

    inputs: tuple[str, ...]
    decoder: Decoder
    batch_size: int
    threads: int | None
    top_k: int
    out: Path | Write
    resume: bool
    old_statuses: bool = False


def settings(decoder: Decoder, *, model_sha256: str, batch_size: int, top_k: int, old_statuses: bool) -> dict[str, Any]:
    """The settings that rows depend on besides the inputs and the provider. A resumed run must have the same ones."""
    return {
        "model": model_sha256,
        "batch size": batch_size,
        "top-k": top_k,
        "invert": decoder.invert,
        "max-bytes": decoder.max_bytes,
        "max-pixels": decoder.max_pixels,
        "old-statuses": old_statuses,
    }


@dataclass(frozen=True)
class Outcome:
    """The result of a run. `counts` covers all rows; `providers` computed `new_rows` of them in `duration_s`."""

    counts: Counts
    new_rows: int = 0
    duration_s: float = 0.0
    providers: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.new_rows:
            return self.counts.summary()
        work = f", {self.new_rows:,} of them now," if self.new_rows < self.counts.total else ""
        duration = f"{self.duration_s:,.{2 if self.duration_s < MAX_SHORT_S else 0}f} s"
        devices = " and ".join(NAMES[provider] for provider in self.providers)
        return self.counts.summary(
            f"{work} in {duration} on {devices} ({self.new_rows / self.duration_s:,.0f} files/s)"
        )


def run(job: Job, session: Session, paths: Iterator[str], *, advance: Advance) -> Outcome:
    """Write a row for each of `paths`, the expanded `job.inputs`.

    Calls `advance` with the number of rows since the last call, first with those of the earlier run. Raises UsageError
    if the results file cannot be written or resumed, ModelError if the model fails.
    """
    started = time.monotonic()
    first = next(paths, None)
    paths = paths if first is None else chain([first], paths)
    remote = first is not None and is_remote(first)
    cores = usable_cores()
    workers = job.threads or max(cores, MIN_CONCURRENT_READS) if remote else min(job.threads or cores, cores)
    batch_size, inputs = split_evenly(paths, batch_size=job.batch_size, workers=workers)
    counts = Counts(folder_labels(session.card.labels, job.inputs))
    with _sink(job, session, batch_size, counts) as sink:
        before = counts.total
        advance(before, "")
        batches = predict(
            session,
            sink.remaining(inputs),
            decoder=job.decoder,
            batch_size=batch_size,
            workers=workers,
            # a few images take less time than starting a process; reading remote files is waiting, not computing
            processes=batch_size == job.batch_size and workers > 1 and session.can_fork and not remote,
            brightness=BrightnessCheck(card=session.card, inverted=job.decoder.invert),
        )
        with suppress_pillow_warnings(), closing(batches):
            for predictions in batches:
                sink.write(rows_of(predictions, session.card.labels, top_k=job.top_k, old_statuses=job.old_statuses))
                advance(len(predictions.paths), "")
    return Outcome(counts, counts.total - before, time.monotonic() - started, (session.provider,))


def _sink(job: Job, session: Session, batch_size: int, counts: Counts) -> AbstractContextManager[Results | RowPrinter]:
    if not isinstance(job.out, Path):
        return nullcontext(RowPrinter(job.out, counts))
    arguments = {
        "inputs": list(job.inputs),
        "provider": session.provider,
        **settings(
            job.decoder,
            model_sha256=session.model.sha256,
            batch_size=batch_size,
            top_k=job.top_k,
            old_statuses=job.old_statuses,
        ),
    }
    return open_results(job.out, top_k=job.top_k, counts=counts, arguments=arguments, resume=job.resume)
