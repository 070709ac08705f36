"""Row: what is said of one input; how rows are written as a table, CSV or JSON lines; and how they are counted."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from nets.errors import UsageError, one_line
from nets.files import written_whole

OK = "ok"


@dataclass(frozen=True)
class Row:
    """One input's answer: `ranked` holds labels with probabilities, most probable first; it is empty unless `ok`."""

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    status: str = OK
    message: str = ""

    def cells(self, top_k: int) -> dict[str, str | float | None]:
        """The row as a results file has it: path, label, probability, status, message, label_2, probability_2, ..."""
        ranked = [*self.ranked[:top_k], *[(None, None)] * (top_k - len(self.ranked))]
        cells = {"path": self.path, **_ranked_cells(ranked[:1], 1), "status": self.status, "message": self.message}
        return {**cells, **_ranked_cells(ranked[1:], 2)}


def _ranked_cells(ranked: Sequence[tuple[str | None, float | None]], first: int) -> dict[str, str | float | None]:
    cells: dict[str, str | float | None] = {}
    for rank, (label, probability) in enumerate(ranked, start=first):
        suffix = "" if rank == 1 else f"_{rank}"
        cells[f"label{suffix}"] = label
        cells[f"probability{suffix}"] = None if probability is None else round(probability, 6)
    return cells


@dataclass
class Tally:
    """Counts of rows as they pass. `judged` are predictions for files in a folder named like one of the `labels`."""

    labels: frozenset[str]
    ok: int = 0
    failed: int = 0
    judged: int = 0
    right: int = 0

    def add(self, row: Row) -> None:
        if row.status != OK:
            self.failed += 1
            return
        self.ok += 1
        truth = os.path.basename(os.path.dirname(os.path.abspath(row.path)))
        if truth in self.labels:
            self.judged += 1
            self.right += row.ranked[0][0] == truth

    def __str__(self) -> str:
        count = self.ok + self.failed
        text = f"{count:,} file{'' if count == 1 else 's'}"
        if self.failed:
            text += f", {self.failed:,} of them with an error"
        if self.judged:
            share = self.right / self.judged
            text += f"; accuracy {share:.2%} ({self.right:,} of {self.judged:,} in folders named like a label)"
        return text


Write = Callable[[Row], None]


@contextmanager
def results_file(path: Path, *, top_k: int) -> Iterator[Write]:
    """A writer into the results file `path`, by its suffix: .csv or .jsonl. It takes its name when all is written.

    Raises UsageError for another suffix, or where the file cannot be made.
    """
    writers = {".csv": csv_writer, ".jsonl": jsonl_writer}
    if path.suffix not in writers:
        raise UsageError(f"--out {path}: results are written as {' or '.join(writers)}")
    with written_whole(path) as file:
        # surrogateescape: file names that are not UTF-8 come back byte for byte
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        yield writers[path.suffix](text, top_k=top_k)
        text.flush()
        text.detach()


def stdout_writer(*, as_json: bool, top_k: int) -> Write:
    """A writer to stdout: JSON lines if asked for, a table on a terminal, else CSV."""
    if as_json:
        return jsonl_writer(sys.stdout, top_k=top_k)
    if sys.stdout.isatty():
        return table_writer(sys.stdout, top_k=top_k)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    return csv_writer(sys.stdout, top_k=top_k)


def csv_writer(file: TextIO, *, top_k: int) -> Write:
    columns = list(Row("").cells(top_k))
    plain = csv.DictWriter(file, columns, lineterminator="\n")
    quoted = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writeheader()

    def write(row: Row) -> None:
        cells = row.cells(top_k)
        carriage_return = any("\r" in str(cell) for cell in cells.values())  # csv would leave that one bare
        (quoted if carriage_return else plain).writerow(cells)

    return write


def jsonl_writer(file: TextIO, *, top_k: int) -> Write:
    return lambda row: print(json.dumps(row.cells(top_k)), file=file)


def table_writer(file: TextIO, *, top_k: int) -> Write:
    """Lines for people: the path last, where its length disturbs no column, and control characters spelled out."""

    def write(row: Row) -> None:
        ranked = "  ".join(f"{label} {probability:7.2%}" for label, probability in row.ranked[:top_k])
        line = f"{ranked or row.status}  {row.path}{f'  ({row.message})' if row.message else ''}"
        print(one_line(line), file=file)

    return write
