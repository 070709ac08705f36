"""Row: what is said of one input; how rows are written as a table, CSV or JSON lines; and how they are counted."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TextIO

from netkit.core.errors import one_line

OK = "ok"


class Row(NamedTuple):
    """One input's answer: `ranked` holds labels with probabilities, most probable first; it is empty unless `ok`."""

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    status: str = OK
    message: str = ""

    @property
    def label(self) -> str | None:
        """The most probable label."""
        return self.ranked[0][0] if self.ranked else None

    @property
    def probability(self) -> float | None:
        """That of `label`, from 0 to 1."""
        return self.ranked[0][1] if self.ranked else None

    def cells(self, top_k: int) -> list[str | float | None]:
        """The row as a results file has it, in the order of `columns`."""
        ranked: list[str | float | None] = []
        for label, probability in self.ranked[:top_k]:
            ranked += label, round(probability, 6)
        ranked += [None] * (2 * top_k - len(ranked))
        return [self.path, *ranked[:2], self.status, self.message, *ranked[2:]]


def columns(top_k: int) -> list[str]:
    """path, label, probability, status, message, label_2, probability_2, ..."""
    more = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
    return ["path", "label", "probability", "status", "message", *more]


@dataclass
class Tally:
    """Counts of rows as they pass. `judged` are predictions for files in a folder named like one of the `labels`."""

    labels: frozenset[str]
    ok: int = 0
    failed: int = 0
    judged: int = 0
    right: int = 0

    @property
    def count(self) -> int:
        return self.ok + self.failed

    def counts(self) -> dict[str, int]:
        return {"ok": self.ok, "failed": self.failed, "judged": self.judged, "right": self.right}

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        if row.status != OK:
            self.failed += 1
            return
        self.ok += 1
        folder = os.path.dirname(row.path)
        truth = os.path.basename(folder)
        if truth in ("", ".", ".."):  # rare, and slow
            truth = os.path.basename(os.path.abspath(folder))
        if truth in self.labels:
            self.judged += 1
            self.right += row.ranked[0][0] == truth

    def __str__(self) -> str:
        text = f"{self.count:,} file{'' if self.count == 1 else 's'}"
        if self.failed:
            text += f", {self.failed:,} of them with an error"
        if self.judged:
            share = self.right / self.judged
            text += f"; accuracy {share:.2%} ({self.right:,} of {self.judged:,} in folders named like a label)"
        return text


Write = Callable[[Iterable[Row]], None]


@dataclass(frozen=True)
class Printed:
    """Takes rows for stdout, a batch at a time, and counts them in `tally`."""

    spell: Write
    tally: Tally

    def write(self, rows: list[Row]) -> None:
        self.spell(rows)
        self.tally.add(rows)

    def rest(self, paths: Iterator[str]) -> Iterator[str]:
        """The inputs that are still to be done: all."""
        return paths


def stdout_writer(*, as_json: bool, top_k: int) -> Write:
    """A writer to stdout: JSON lines if asked for, a table on a terminal, else CSV."""
    if as_json:
        return jsonl_writer(sys.stdout, top_k=top_k)
    if sys.stdout.isatty():
        return table_writer(sys.stdout, top_k=top_k)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    return csv_writer(sys.stdout, top_k=top_k)


def csv_writer(file: TextIO, *, top_k: int, header: bool = True) -> Write:
    def spelled(cells: list[list[str | float | None]], quoting: Literal[0, 1]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n", quoting=quoting).writerows(cells)
        return text.getvalue()

    def write(rows: Iterable[Row]) -> None:
        cells = [row.cells(top_k) for row in rows]
        text = spelled(cells, csv.QUOTE_MINIMAL)  # all at once, in a third of the time
        if "\r" in text:  # which csv leaves bare, where a row may end
            lines = (spelled([each], csv.QUOTE_MINIMAL) for each in cells)
            text = "".join(
                spelled([each], csv.QUOTE_ALL) if "\r" in line else line
                for each, line in zip(cells, lines, strict=True)
            )
        file.write(text)

    if header:
        file.write(spelled([[*columns(top_k)]], csv.QUOTE_MINIMAL))
    return write


def jsonl_writer(file: TextIO, *, top_k: int) -> Write:
    names = columns(top_k)

    def write(rows: Iterable[Row]) -> None:
        file.writelines(json.dumps(dict(zip(names, row.cells(top_k), strict=True))) + "\n" for row in rows)

    return write


def table_writer(file: TextIO, *, top_k: int) -> Write:
    """Lines for people: the path last, where its length disturbs no column, and control characters spelled out."""

    def write(rows: Iterable[Row]) -> None:
        for row in rows:
            ranked = "  ".join(f"{label} {probability:7.2%}" for label, probability in row.ranked[:top_k])
            line = f"{ranked or row.status}  {row.path}{f'  ({row.message})' if row.message else ''}"
            print(one_line(line), file=file)

    return write
