"""Parquet: rows in columns, for tables of millions. Needs pyarrow, which netkit's extra [parquet] installs."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from infer.rows import columns
from nets.files import written_whole

ROWS = 65_536  # in memory at a time, and in a row group


def write(jsonl: Path, path: Path, *, top_k: int) -> None:
    """Write the rows in the file `jsonl` to `path`, whole or not at all.

    Probabilities are doubles, all else is text; bytes of a path that are not UTF-8 are spelled with backslashes, and a
    backslash as two of them.
    """
    names = columns(top_k)
    kinds = [pa.float64() if name.startswith("probability") else pa.string() for name in names]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    with written_whole(path) as file, ParquetWriter(file, schema) as writer, open(jsonl, encoding="ascii") as lines:
        while rows := [_sayable(json.loads(line)) for line in islice(lines, ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _sayable(cells: dict[str, Any]) -> dict[str, Any]:
    path, message = cells["path"].replace("\\", "\\\\"), cells["message"]
    return {**cells, "path": _escaped(path), "message": _escaped(message)}


def _escaped(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
