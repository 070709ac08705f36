"""Writers: rows as CSV, as JSON lines, or as a table for people."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TextIO

from netkit.core.errors import one_line
from netkit.infer.output.prediction import Counts, Row, columns

Write = Callable[[Iterable[Row]], None]


@dataclass(frozen=True)
class Printed:
    """Prints rows, a batch at a time, and counts them."""

    print_rows: Write
    counts: Counts

    def write(self, rows: list[Row]) -> None:
        self.print_rows(rows)
        self.counts.add(rows)

    def remaining(self, paths: Iterator[str]) -> Iterator[str]:
        """The inputs that have no row yet: all of them."""
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
    """A writer of CSV as RFC 4180 has it, but for lines that end with a single line feed."""

    def as_text(cells: list[list[str | float | None]], quoting: Literal[0, 1]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n", quoting=quoting).writerows(cells)
        return text.getvalue()

    def write(rows: Iterable[Row]) -> None:
        cells = [row.cells(top_k) for row in rows]
        text = as_text(cells, csv.QUOTE_MINIMAL)  # in one call: a third of the time
        if "\r" in text:  # csv does not quote it, but readers end a row there
            lines = (as_text([each], csv.QUOTE_MINIMAL) for each in cells)
            text = "".join(
                as_text([each], csv.QUOTE_ALL) if "\r" in line else line
                for each, line in zip(cells, lines, strict=True)
            )
        file.write(text)

    if header:
        file.write(as_text([[*columns(top_k)]], csv.QUOTE_MINIMAL))
    return write


def jsonl_writer(file: TextIO, *, top_k: int) -> Write:
    """A writer of JSON objects, one a line, in ASCII."""
    names = columns(top_k)

    def write(rows: Iterable[Row]) -> None:
        file.writelines(json.dumps(dict(zip(names, row.cells(top_k), strict=True))) + "\n" for row in rows)

    return write


def table_writer(file: TextIO, *, top_k: int) -> Write:
    """Lines for people. The path comes last, so that its length moves no column; control characters are escaped."""

    def write(rows: Iterable[Row]) -> None:
        for row in rows:
            ranked = "  ".join(f"{label} {probability:7.2%}" for label, probability in row.ranked[:top_k])
            line = f"{ranked or row.status}  {row.path}{f'  ({row.message})' if row.message else ''}"
            print(one_line(line), file=file)

    return write
