"""Results: the file that rows go to. It takes its name when all are there; a run that was stopped can be resumed.

Until then the rows lie in a file beside it, and every few seconds a journal says how far that file is whole. Who goes
on cuts it there and writes on, so that the finished file is the one that would have been written at a stretch.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from io import FileIO, StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from netkit.core import atomic_io, schema
from netkit.core.errors import MissingExtraError, UsageError
from netkit.infer.output.writers import Row, Tally, csv_writer, jsonl_writer

logger = logging.getLogger(__name__)

FORMS = (".csv", ".jsonl", ".parquet")
SAVE_EVERY_S = 2.0  # a kill costs no more work than that


class Results:
    """Takes rows, a batch at a time, and counts them in `tally`; `inputs` is the SHA-256 of their paths.

    Of these, `kept` rows are on the disk, where another run can go on after them.
    """

    def __init__(
        self, path: Path, file: FileIO, tally: Tally, *, inputs: str, top_k: int, arguments: Mapping[str, Any]
    ) -> None:
        self.tally, self.kept = tally, tally.count
        self._inputs, self._done = hashlib.sha256(), inputs
        self._path, self._file, self._arguments = path, file, arguments
        self._text = StringIO(newline="")
        if _form_of(path) == ".csv":
            self._spell = csv_writer(self._text, top_k=top_k, header=file.tell() == 0)
        else:
            self._spell = jsonl_writer(self._text, top_k=top_k)
        self._saved = time.monotonic()

    def rest(self, paths: Iterator[str]) -> Iterator[str]:
        """The inputs that are still to be done. Raises UsageError where those that are done are others."""
        done = self.tally.count
        for path in islice(paths, done):
            self._note([path])
        if done and self._inputs.hexdigest() != self._done:
            raise UsageError(
                f"{self._path}: the first {done:,} inputs are others than when the run was stopped; leave out --resume "
                "to start anew"
            )
        return paths

    def _note(self, paths: Iterable[str]) -> None:
        self._inputs.update(os.fsencode("".join(path + "\0" for path in paths)))

    def write(self, rows: list[Row]) -> None:
        self._spell(rows)
        self._hand_on()
        self.tally.add(rows)
        self._note(row.path for row in rows)
        if time.monotonic() - self._saved >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Put all rows so far on the disk, and then the journal."""
        self._hand_on()
        os.fsync(self._file.fileno())
        whole = {
            "arguments": self._arguments, "bytes": self._file.tell(), "inputs": self._inputs.hexdigest(),
            **self.tally.counts(),
        }  # fmt: skip
        atomic_io.write_atomic(_journal_of(self._path), json.dumps(whole).encode())
        self.kept, self._saved = self.tally.count, time.monotonic()

    def _hand_on(self) -> None:
        # surrogateescape: file names that are not UTF-8 come back byte for byte
        content = memoryview(self._text.getvalue().encode("utf-8", "surrogateescape"))
        self._text.seek(0)
        self._text.truncate()
        while content:  # a disk that is nearly full takes a part
            content = content[self._file.write(content) :]


@contextmanager
def open_results(
    path: Path, *, top_k: int, tally: Tally, arguments: Mapping[str, Any], resume: bool = False
) -> Iterator[Results]:
    """A results file, .csv, .jsonl or .parquet, which takes its name when the block ends well.

    Where it does not, the rows of all but the last seconds are kept, and `resume` goes on after them: `tally` counts
    them, too. Raises UsageError for another suffix, where the file cannot be made or another run is making it, or where
    the run to go on with had other `arguments`; MissingExtraError where there is no pyarrow to write .parquet.
    """
    if _form_of(path) not in FORMS:
        raise UsageError(f"--out {path}: results are written as {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    if _form_of(path) == ".parquet" and not find_spec("pyarrow"):
        raise MissingExtraError("pyarrow", "parquet")
    atomic_io.require_writable(path)
    with _alone(path) as file:
        stopped = _journal_of(path).exists()
        if stopped and not resume:
            logger.info("%s: starting anew; --resume would go on with the run that was stopped", path)
        inputs = _go_on(path, file, tally, arguments) if stopped and resume else ""
        file.truncate()
        results = Results(path, file, tally, inputs=inputs, top_k=top_k, arguments=arguments)
        try:
            if not inputs:
                results.save()
            yield results
            results.save()
        except BaseException as fault:
            _keep_or_remove(results, path, stopped=not isinstance(fault, Exception))
            if isinstance(fault, OSError) and not fault.filename:
                raise OSError(fault.errno, fault.strerror, str(path)) from None
            raise
        _publish(path, top_k)


def _form_of(path: Path) -> str:
    """What rows are written as: the suffix, in small letters."""
    return path.suffix.lower()


def is_finished(path: Path) -> bool:
    """Whether no run into `path` is waiting to be gone on with, and one has ended."""
    journal, partial = _journal_of(path), _partial_of(path)
    if journal.exists() and not partial.exists() and path.exists():
        journal.unlink()  # killed when all was done but this
    return path.exists() and not journal.exists()


@contextmanager
def _alone(path: Path) -> Iterator[FileIO]:
    """The file of rows beside `path`, open for this run and no other."""
    partial = _partial_of(path)
    while True:
        with FileIO(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
            atomic_io.lock_file(file.fileno(), path)
            if _is_named(file, partial):  # else another run has ended meanwhile, and given that very file its name
                yield file
                return


def _is_named(file: FileIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


@dataclass(frozen=True)
class _Journal:
    """How far a run came: `bytes` of its rows are on the disk; `inputs` is the SHA-256 of their paths."""

    arguments: Mapping[str, Any]
    bytes: int
    inputs: str
    ok: int
    failed: int
    judged: int
    right: int


def _go_on(path: Path, file: FileIO, tally: Tally, arguments: Mapping[str, Any]) -> str:
    """Set file and tally to where the journal says that all is whole; gives the SHA-256 of the inputs so far."""
    text = _journal_of(path).read_text()
    journal = schema.load(_Journal, text, what=f"{path}: the journal", error=UsageError)
    require_same(path, journal.arguments, arguments)
    if os.fstat(file.fileno()).st_size < journal.bytes:
        raise UsageError(f"{path}: its rows are gone; leave out --resume to start anew")
    for name in tally.counts():
        setattr(tally, name, getattr(journal, name))
    file.seek(journal.bytes)
    return journal.inputs


def require_same(path: Path, earlier: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise UsageError where the run into `path` that is to be gone on with had others."""
    for name, value in arguments.items():
        if earlier.get(name) != value:
            raise UsageError(
                f"{path}: this run was started with {name} {earlier.get(name)!r}, not {value!r}; go on with the same, "
                "or leave out --resume to start anew"
            )


def _keep_or_remove(results: Results, path: Path, *, stopped: bool) -> None:
    # a run that was stopped before any row is there to go on with: an earlier file is not its result
    if results.kept or (stopped and path.exists()):
        logger.info("%s: the first %s rows are kept; go on with --resume", path, f"{results.kept:,}")
    else:
        _journal_of(path).unlink(missing_ok=True)  # first: without its rows it would stand for a run that has ended
        _partial_of(path).unlink(missing_ok=True)


def _publish(path: Path, top_k: int) -> None:
    partial = _partial_of(path)
    if _form_of(path) == ".parquet":
        from netkit.infer.output import parquet  # needs an extra

        with open(partial, encoding="ascii") as lines:
            parquet.write(path, (list(json.loads(line).values()) for line in lines), top_k=top_k)
        partial.unlink()
    else:
        os.replace(partial, path)
    _journal_of(path).unlink(
        missing_ok=True
    )  # who asks for this run to be gone on with may have seen that it has ended
    atomic_io.sync_folder(path.parent)


def _partial_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _journal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")
