"""Parquet files of rows and of paths. Needs pyarrow, which netkit's extra [parquet] installs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

from netkit.core import remote
from netkit.core.atomic_io import open_atomic
from netkit.core.errors import UsageError
from netkit.data.table import PATH_COLUMN
from netkit.infer.output.prediction import columns

MAX_GROUP_ROWS = 65_536  # rows of a row group, and in memory at a time
ESCAPED = "netkit.escaped"  # metadata key of a file whose paths are escaped as `write` does it
ESCAPE = re.compile(r"\\(?:\\|x([89a-f][0-9a-f]))")
Cells = Sequence[str | float | None]


def write(path: Path, rows: Iterable[Cells], *, top_k: int, metadata: Mapping[str, str] | None = None) -> None:
    """Write rows, as `Row.cells` returns them, to the file `path` atomically.

    Probabilities are float64, all other columns are text. In paths, a byte that is not UTF-8 is written as an escape
    such as \\xff, and a backslash as two. `metadata` is stored in the file; the function `metadata` reads it.
    """
    names = columns(top_k)
    types = [pa.float64() if name.startswith("probability") else pa.string() for name in names]
    schema = pa.schema(list(zip(names, types, strict=True)), metadata={ESCAPED: "yes", **(metadata or {})})
    remaining = iter(rows)
    with open_atomic(path) as file, pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        while group := [_escape_cells(cells) for cells in islice(remaining, MAX_GROUP_ROWS)]:
            arrays = [pa.array(column, type_) for column, type_ in zip(zip(*group, strict=True), types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file that `write` wrote; empty if the file does not exist or any page is damaged."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)
        encoded: Mapping[bytes, bytes] = table.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in encoded.items()}
    except (OSError, ValueError):  # Arrow's exceptions are ValueErrors
        return {}


def read_paths(path: str, *, column: str = PATH_COLUMN) -> Iterator[str]:
    """Yield the column `column` of a Parquet file, local or behind a URL: one path for each row, "" for null.

    For a results file of netkit, these are the paths of its inputs. Raises UsageError if the file cannot be read, and,
    before the first path, if it has no such text column.
    """
    try:
        file = pq.ParquetFile(remote.open_file(path) if remote.is_remote(path) else path)
    except UsageError:
        raise
    except Exception as exc:  # the exceptions of remote file systems have no common base class
        raise _unreadable(path, exc) from None
    schema = file.schema_arrow
    type_ = schema.field(column).type if column in schema.names else pa.null()
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
        names = ", ".join(schema.names)
        raise UsageError(f"{path}: has no text column '{column}', only {names}; pass another with --path-column")
    return _read_column(path, file, column, escaped=ESCAPED.encode() in (schema.metadata or {}))


def _read_column(path: str, file: pq.ParquetFile, column: str, *, escaped: bool) -> Iterator[str]:
    try:
        for batch in file.iter_batches(columns=[column]):
            for text in batch.column(column).to_pylist():
                yield (_unescape(text) if escaped else text) if text else ""
    except Exception as exc:  # as above
        raise _unreadable(path, exc) from None


def _unreadable(path: str, cause: Exception) -> UsageError:
    return UsageError(f"{path}: cannot be read as Parquet: {cause}")


def _escape_cells(cells: Cells) -> Cells:
    path, label, probability, status, message, *more = cells
    assert isinstance(path, str) and isinstance(message, str)
    return [_escape(path.replace("\\", "\\\\")), label, probability, status, _escape(message), *more]


def _escape(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unescape(text: str) -> str:
    """Undo the escaping of a path."""
    return ESCAPE.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] else "\\", text)
