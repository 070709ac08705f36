"""The results file of a run. It gets its name when all rows are there; a run that was stopped can be resumed.

Until then the rows are in `.NAME.part` beside it, which the run locks. Every few seconds `.NAME.journal` records how
far that file is complete. A resumed run truncates the file there and appends, so the finished file equals the one of an
uninterrupted run. The journal stays beside the finished file: with it, --resume knows which run wrote the file.
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
SAVE_EVERY_S = 2.0  # a killed run loses no more work than that
START_ANEW = "leave out --resume to start anew"


class Results:
    """Takes rows, a batch at a time, and counts them in `counts`. `saved` rows would survive a kill.

    If `finished`, the results file already has all rows.
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
        """The inputs that have no row yet. Raises UsageError if the first ones are not those that have a row."""
        done = self.counts.total
        for path in islice(paths, done):
            self._hash([path])
        if self._inputs.hexdigest() != self._journal.inputs_sha256:
            raise UsageError(f"{self._path}: the first {done:,} inputs are not those of the earlier run; {START_ANEW}")
        if self.finished:
            if next(paths, None) is not None:
                raise UsageError(f"{self._path}: the earlier run had {done:,} inputs, now there are more; {START_ANEW}")
            logger.info("%s: this run has ended: nothing is left to do; %s", self._path, START_ANEW)
        return paths

    def write(self, rows: list[Row]) -> None:
        self._write_rows(rows)
        self.counts.add(rows)
        self._hash(row.path for row in rows)
        self._flush()
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Put all rows so far on the disk, then the journal."""
        self._flush()
        os.fsync(self._file.fileno())
        self._write_journal(self._file.tell(), finished=False)
        self.saved, self._saved_at = self.counts.total, time.monotonic()

    def publish(self, top_k: int) -> None:
        """Give the complete file its name."""
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
        # surrogateescape: file names that are not UTF-8 come back byte for byte
        content = memoryview(self._text.getvalue().encode("utf-8", "surrogateescape"))
        self._text.seek(0)
        self._text.truncate()
        while content:  # a disk that is nearly full takes a part
            content = content[self._file.write(content) :]


@contextmanager
def open_results(
    path: Path, *, top_k: int, counts: Counts, arguments: Mapping[str, Any], resume: bool = False
) -> Iterator[Results]:
    """A results file, .csv, .jsonl or .parquet, which gets its name when the block ends without an exception.

    Otherwise the rows up to the last save are kept, and `resume` continues after them; `counts` then includes them.
    With `resume`, a finished run of the same inputs and arguments is left as it is.

    Raises UsageError for another suffix, if the file cannot be written, if another run is writing it, or if the run to
    resume had other arguments or is unknown; MissingExtraError if .parquet needs pyarrow.
    """
    _require_format(path)
    with _locked(path) as file:
        journal = _journal_to_resume(path, file, arguments) if resume else None
        if not resume and _is_unfinished(path):
            logger.info("%s: starting anew; --resume continues the run that was stopped", path)
        started = journal or Journal(arguments)
        for name, count in started.counts.items():
            setattr(counts, name, count)
        if not started.finished:
            file.seek(started.size)
            file.truncate()
        results = Results(path, file, started, counts, top_k=top_k)
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
    """Raise UsageError if the run into `path` that is to be resumed had other arguments."""
    for name, value in arguments.items():
        if earlier.get(name) != value:
            raise UsageError(
                f"{path}: this run was started with {name} {earlier.get(name)!r}, not {value!r}; resume it with the "
                f"same, or {START_ANEW}"
            )


def _require_format(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {path}: results are written as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.suffix.lower() == ".parquet" and not find_spec("pyarrow"):
        raise MissingExtraError("pyarrow", "parquet")
    atomic_io.require_writable(path)


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """The file of rows beside `path`, open for this run and no other."""
    partial = _partial_path(path)
    while True:
        with FileIO(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
            atomic_io.lock_file(file.fileno(), path)
            if not _is_named(file, partial):  # another run has ended meanwhile and renamed this file
                continue
            try:
                yield file
            finally:
                if _is_named(file, partial) and not os.fstat(file.fileno()).st_size:
                    partial.unlink()
            return


def _is_named(file: FileIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _is_unfinished(path: Path) -> bool:
    with suppress(UsageError):
        journal = Journal.read(path)
        return journal is not None and not journal.finished
    return False


def _journal_to_resume(path: Path, file: FileIO, arguments: Mapping[str, Any]) -> Journal | None:
    """Where to resume; None if no run was there. Raises UsageError as `open_results` does."""
    journal = Journal.read(path)
    if journal is None:
        if path.exists():
            raise UsageError(f"{path}: no journal says which run wrote this file; {START_ANEW}")
        return None
    require_same(path, journal.arguments, arguments)
    size = os.fstat(file.fileno()).st_size
    if journal.finished:
        if path.suffix.lower() != ".parquet" and size == journal.size > 0:  # killed before it got its name
            return replace(journal, finished=False)
        if path.exists() and path.stat().st_size == journal.size:
            return journal
    if journal.finished or size < journal.size:
        raise UsageError(f"{path}: the rows of the earlier run are gone or were changed; {START_ANEW}")
    return journal


def _keep_or_remove(results: Results, path: Path, *, stopped: bool) -> None:
    """Keep what a later run can resume. A run that was stopped before its first row hides an earlier results file."""
    if results.finished:
        return
    if results.saved or (stopped and path.exists()):
        logger.info("%s: the first %s rows are kept; go on with --resume", path, f"{results.saved:,}")
    else:
        _partial_path(path).unlink(missing_ok=True)
        journal_path(path).unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
