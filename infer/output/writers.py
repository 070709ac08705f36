"""Writers: rows as CSV, as JSON lines, or as a readable table."""

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
class RowPrinter:
    """Prints rows, a batch at a time, and counts them."""

    print_rows: Write
    counts: Counts

    def write(self, rows: list[Row]) -> None:
        self.print_rows(rows)
        self.counts.add(rows)

    def remaining(self, paths: Iterator[str]) -> Iterator[str]:
        """All inputs: unlike a results file, stdout holds no rows of an earlier run."""
        return paths


def stdout_writer(*, as_json: bool, top_k: int) -> Write:
    """Return a writer to stdout: JSON lines with `as_json`, otherwise a table on a terminal and CSV elsewhere."""
    if as_json:
        return jsonl_writer(sys.stdout, top_k=top_k)
    if sys.stdout.isatty():
        return table_writer(sys.stdout, top_k=top_k)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    return csv_writer(sys.stdout, top_k=top_k)


def csv_writer(file: TextIO, *, top_k: int, header: bool = True) -> Write:
    """Return a writer of CSV as in RFC 4180, except that lines end with a single line feed."""

    def as_text(cells: list[list[str | float | None]], quoting: Literal[0, 1]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n", quoting=quoting).writerows(cells)
        return text.getvalue()

    def write(rows: Iterable[Row]) -> None:
        cells = [row.cells(top_k) for row in rows]
        text = as_text(cells, csv.QUOTE_MINIMAL)  # one call for all rows takes a third of the time
        if "\r" in text:  # the csv module does not quote "\r", but readers end a row there
            lines = (as_text([row_cells], csv.QUOTE_MINIMAL) for row_cells in cells)
            text = "".join(
                as_text([row_cells], csv.QUOTE_ALL) if "\r" in line else line
                for row_cells, line in zip(cells, lines, strict=True)
            )
        file.write(text)

    if header:
        file.write(as_text([[*columns(top_k)]], csv.QUOTE_MINIMAL))
    return write


def jsonl_writer(file: TextIO, *, top_k: int) -> Write:
    """Return a writer of JSON lines: one object per row, in ASCII."""
    names = columns(top_k)

    def write(rows: Iterable[Row]) -> None:
        file.writelines(json.dumps(dict(zip(names, row.cells(top_k), strict=True))) + "\n" for row in rows)

    return write


def table_writer(file: TextIO, *, top_k: int) -> Write:
    """Return a writer of a readable table with escaped control characters.

    The path comes last, so that its length does not move the other columns.
    """

    def write(rows: Iterable[Row]) -> None:
        for row in rows:
            ranked = "  ".join(f"{label} {probability:7.2%}" for label, probability in row.ranked[:top_k])
            line = f"{ranked or row.status}  {row.path}{f'  ({row.message})' if row.message else ''}"
            print(one_line(line), file=file)

    return write
