"""The results file of a run: it appears when all rows are written, and a run that was stopped can be resumed.

A run writes its rows to `.NAME.part` in the same folder and locks this file. At the end it renames the file or, for
Parquet, converts it. Every few seconds it records in `.NAME.journal` how far the file is complete. A resumed run
truncates the file there and appends, so the finished file equals that of an uninterrupted run. The journal is kept;
--resume reads it.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from io import FileIO, StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from netkit.core import atomic_io
from netkit.core.errors import MissingExtraError, UsageError
from netkit.infer.output.journal import Journal, journal_path
from netkit.infer.output.prediction import Counts, Row
from netkit.infer.output.writers import csv_writer, jsonl_writer

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".jsonl", ".parquet")
SAVE_EVERY_S = 2.0  # a killed run loses at most the work of this time
START_AGAIN = "omit --resume to start again"


class Results:
    """Writes rows, a batch at a time, and counts them in `counts`.

    `saved` is the number of rows that a kill of the process does not lose. If `finished` is true, an earlier run has
    written all rows.
    """

    def __init__(self, path: Path, file: FileIO, journal: Journal, counts: Counts, *, top_k: int) -> None:
        self.counts, self.saved, self.finished = counts, counts.total, journal.finished
        self._path, self._file, self._journal = path, file, journal
        self._inputs = hashlib.sha256()
        self._text = StringIO(newline="")
        if path.suffix.lower() == ".csv":
            self._write_rows = csv_writer(self._text, top_k=top_k, header=not journal.size)
        else:
            self._write_rows = jsonl_writer(self._text, top_k=top_k)
        self._saved_at = time.monotonic()

    def remaining(self, paths: Iterator[str]) -> Iterator[str]:
        """Return the inputs without a row. Raises UsageError if those before them differ from the earlier run's."""
        done = self.counts.total
        for path in islice(paths, done):
            self._hash([path])
        if self._inputs.hexdigest() != self._journal.inputs_sha256:
            raise UsageError(
                f"{self._path}: the first {done:,} inputs differ from those of the earlier run; {START_AGAIN}"
            )
        if self.finished:
            if next(paths, None) is not None:
                raise UsageError(f"{self._path}: the earlier run had only {done:,} inputs; {START_AGAIN}")
            logger.info("%s: this run is already complete", self._path)
        return paths

    def write(self, rows: list[Row]) -> None:
        self._write_rows(rows)
        self.counts.add(rows)
        self._hash(row.path for row in rows)
        self._flush()
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write all rows so far to the disk, then the journal."""
        self._flush()
        os.fsync(self._file.fileno())
        self._write_journal(self._file.tell(), finished=False)
        self.saved, self._saved_at = self.counts.total, time.monotonic()

    def publish(self, top_k: int) -> None:
        """Create the results file: rename the file of rows, or convert it to Parquet."""
        partial = _partial_path(self._path)
        if self._path.suffix.lower() == ".parquet":
            from netkit.infer.output import parquet  # needs an extra

            with open(partial, encoding="ascii") as lines:
                parquet.write(self._path, (list(json.loads(line).values()) for line in lines), top_k=top_k)
            self._write_journal(self._path.stat().st_size, finished=True)
            partial.unlink()
        else:
            self._write_journal(self._file.tell(), finished=True)
            os.replace(partial, self._path)
        atomic_io.sync_folder(self._path.parent)

    def _write_journal(self, size: int, *, finished: bool) -> None:
        Journal(
            self._journal.arguments, size, self._inputs.hexdigest(), self.counts.as_dict(), finished=finished
        ).write(self._path)

    def _hash(self, paths: Iterable[str]) -> None:
        self._inputs.update(os.fsencode("".join(path + "\0" for path in paths)))

    def _flush(self) -> None:
        # surrogateescape writes file names that are not UTF-8 unchanged, byte for byte
        content = memoryview(self._text.getvalue().encode("utf-8", "surrogateescape"))
        self._text.seek(0)
        self._text.truncate()
        while content:  # a write to a nearly full disk may be partial
            content = content[self._file.write(content) :]


@contextmanager
def open_results(
    path: Path, *, top_k: int, counts: Counts, arguments: Mapping[str, Any], resume: bool = False
) -> Iterator[Results]:
    """Open a results file, .csv, .jsonl or .parquet. It appears when the block ends without an exception.

    After an exception the rows up to the last save are kept. `resume` continues after them and adds them to `counts`;
    it changes nothing if the earlier run is finished.

    Raises UsageError for another suffix, if the file cannot be written, if another run is writing it, or if the run to
    resume had other arguments or is unknown; MissingExtraError if .parquet needs pyarrow.
    """
    check_path(path)
    with _locked(path) as file:
        journal = _journal_to_resume(path, file, arguments) if resume else None
        if not resume and _is_unfinished(path):
            logger.info("%s: starting again without --resume; the progress of the stopped run is deleted", path)
        elif not resume and path.exists():
            logger.info("%s: replacing this file", path)
        state = journal or Journal(arguments)
        for name, count in state.counts.items():
            setattr(counts, name, count)
        if not state.finished:
            file.seek(state.size)
            file.truncate()
        results = Results(path, file, state, counts, top_k=top_k)
        try:
            if not journal:
                results.save()
            yield results
            if not results.finished:
                results.save()
        except BaseException as exc:
            _keep_or_remove(results, path, stopped=not isinstance(exc, Exception))
            if isinstance(exc, OSError) and not exc.filename:
                raise OSError(exc.errno, exc.strerror, str(path)) from None
            raise
        if not results.finished:
            results.publish(top_k)


def require_same(path: Path, earlier: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise UsageError if the run to be resumed, which wrote to `path`, had other arguments."""
    for name, value in arguments.items():
        before = earlier.get(name, False)  # an earlier version without this setting
        if before != value:
            raise UsageError(
                f"{path}: this run was started with {name} {_spelled(before)}, but this command has {_spelled(value)} "
                f"(typed or by default); pass the same value, or {START_AGAIN}"
            )


def _spelled(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_path(path: Path) -> None:
    """Raise UsageError if `path` has another suffix or cannot be written; MissingExtraError for a missing pyarrow."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {path}: the suffix must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.suffix.lower() == ".parquet" and not find_spec("pyarrow"):
        raise MissingExtraError("pyarrow", "parquet")
    atomic_io.require_writable(path)


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """Open the file of rows for `path`, and lock it against other runs."""
    partial = _partial_path(path)
    while True:
        try:
            fd = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(path)) from None  # name the file that the user knows
        with FileIO(fd, "r+") as file:
            atomic_io.lock_file(file.fileno(), path)
            if not _is_same_file(file, partial):  # another run has renamed or deleted it
                continue
            try:
                yield file
            finally:
                if _is_same_file(file, partial) and not os.fstat(file.fileno()).st_size:
                    partial.unlink()
            return


def _is_same_file(file: FileIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _is_unfinished(path: Path) -> bool:
    with suppress(UsageError):
        journal = Journal.read(path)
        return journal is not None and not journal.finished
    return False


def _journal_to_resume(path: Path, file: FileIO, arguments: Mapping[str, Any]) -> Journal | None:
    """Return the journal to resume from, or None if there was no run. Raises UsageError as `open_results` does."""
    journal = Journal.read(path)
    if journal is None:
        if path.exists():
            raise UsageError(
                f"{path}: is not from an interrupted run, because {journal_path(path)} is missing; "
                "omit --resume to replace the file"
            )
        return None
    require_same(path, journal.arguments, arguments)
    size = os.fstat(file.fileno()).st_size
    if journal.finished:
        if path.suffix.lower() != ".parquet" and size == journal.size > 0:  # killed before the rename
            return replace(journal, finished=False)
        if path.exists() and path.stat().st_size == journal.size:
            return journal
    if journal.finished or size < journal.size:
        raise UsageError(f"{path}: the rows of the earlier run were removed or changed; {START_AGAIN}")
    return journal


def _keep_or_remove(results: Results, path: Path, *, stopped: bool) -> None:
    """Keep the rows and the journal if rows were saved, or if a stopped run could not be resumed without them."""
    if results.finished:
        return
    if results.saved or (stopped and path.exists()):
        logger.info("%s: the first %s rows are kept; continue with --resume", path, f"{results.saved:,}")
    else:
        _partial_path(path).unlink(missing_ok=True)
        journal_path(path).unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
