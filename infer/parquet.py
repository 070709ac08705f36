"""Parquet: rows in columns, for tables of millions. Needs pyarrow, which netkit's extra [parquet] installs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

from infer.rows import columns
from nets.errors import UsageError
from nets.files import written_whole

ROWS = 65_536  # in memory at a time, and in a row group
PATH = "path"
Cells = Sequence[str | float | None]


def write(path: Path, rows: Iterable[Cells], *, top_k: int, metadata: Mapping[str, str] | None = None) -> None:
    """Write rows, as `Row.cells` has them, to the file `path`, whole or not at all.

    Probabilities are doubles, all else is text; bytes of a path that are not UTF-8 are spelled with backslashes, and a
    backslash as two of them. The file's `metadata` are for `metadata()`.
    """
    names = columns(top_k)
    kinds = [pa.float64() if name.startswith("probability") else pa.string() for name in names]
    schema = pa.schema(list(zip(names, kinds, strict=True)), metadata=metadata)
    remaining = iter(rows)
    with written_whole(path) as file, pq.ParquetWriter(file, schema) as writer:
        while some := [_sayable(cells) for cells in islice(remaining, ROWS)]:
            arrays = [pa.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def metadata(path: Path) -> dict[str, str]:
    """What `write` was given beside the rows; nothing where there is no such file, or it is none of Parquet's."""
    try:
        found: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}
    return {key.decode(): value.decode() for key, value in found.items()}


def paths_in(path: Path) -> Iterator[str]:
    """The column `path` of a Parquet file. Raises UsageError, before the first, where it has no such column of text."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as fault:
        raise UsageError(f"{path}: cannot be read as Parquet: {fault}") from None
    kinds = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    if PATH not in kinds or not (pa.types.is_string(kinds[PATH]) or pa.types.is_large_string(kinds[PATH])):
        raise UsageError(f"{path}: has no column '{PATH}' of text, only {', '.join(kinds)}")
    batches = file.iter_batches(columns=[PATH])
    return (each for batch in batches for each in batch.column(PATH).to_pylist() if each)


def _sayable(cells: Cells) -> Cells:
    path, label, probability, status, message, *more = cells
    assert isinstance(path, str) and isinstance(message, str)
    return [_escaped(path.replace("\\", "\\\\")), label, probability, status, _escaped(message), *more]


def _escaped(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
