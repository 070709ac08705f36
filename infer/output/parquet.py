"""Parquet: rows in columns, for tables of millions. Needs pyarrow, which netkit's extra [parquet] installs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

from netkit.core import remote
from netkit.core.atomic_io import open_atomic
from netkit.core.errors import UsageError
from netkit.infer.output.prediction import columns

ROWS = 65_536  # in memory at a time, and in a row group
PATH = "path"
ESCAPED = "netkit.escaped"  # metadata of a file whose paths are spelled as `write` does it
ESCAPE = re.compile(r"\\(?:\\|x([89a-f][0-9a-f]))")
Cells = Sequence[str | float | None]


def write(path: Path, rows: Iterable[Cells], *, top_k: int, metadata: Mapping[str, str] | None = None) -> None:
    """Write rows, as `Row.cells` has them, to the file `path`, whole or not at all.

    Probabilities are doubles, all else is text; bytes of a path that are not UTF-8 are spelled with backslashes, and a
    backslash as two of them. The file's `metadata` are for `metadata()`.
    """
    names = columns(top_k)
    kinds = [pa.float64() if name.startswith("probability") else pa.string() for name in names]
    schema = pa.schema(list(zip(names, kinds, strict=True)), metadata={ESCAPED: "yes", **(metadata or {})})
    remaining = iter(rows)
    with open_atomic(path) as file, pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        while some := [_sayable(cells) for cells in islice(remaining, ROWS)]:
            arrays = [pa.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def metadata(path: Path) -> dict[str, str]:
    """What `write` was given beside the rows; nothing where there is no such file, or it is damaged somewhere."""
    try:
        rows = pq.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)
        found: Mapping[bytes, bytes] = rows.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in found.items()}
    except (OSError, ValueError):  # Arrow's own are ValueErrors
        return {}


def paths_in(path: str) -> Iterator[str]:
    """The column `path` of a Parquet file, here or behind a URL, one for each row; where there is none, an empty one.

    A results file of netkit's gives back the paths that it is of. Raises UsageError where the file cannot be read, or,
    before the first path, has no such column of text.
    """
    try:
        file = pq.ParquetFile(remote.opened(path) if remote.is_remote(path) else path)
    except UsageError:
        raise
    except Exception as fault:  # each remote system has its own
        raise _unreadable(path, fault) from None
    schema = file.schema_arrow
    kind = schema.field(PATH).type if PATH in schema.names else pa.null()
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(f"{path}: has no column '{PATH}' of text, only {', '.join(schema.names)}")
    return _read(path, file, escaped=ESCAPED.encode() in (schema.metadata or {}))


def _read(path: str, file: pq.ParquetFile, *, escaped: bool) -> Iterator[str]:
    try:
        for batch in file.iter_batches(columns=[PATH]):
            for each in batch.column(PATH).to_pylist():
                yield (_unescaped(each) if escaped else each) if each else ""
    except Exception as fault:  # as above
        raise _unreadable(path, fault) from None


def _unreadable(path: str, fault: Exception) -> UsageError:
    return UsageError(f"{path}: cannot be read as Parquet: {fault}")


def _sayable(cells: Cells) -> Cells:
    path, label, probability, status, message, *more = cells
    assert isinstance(path, str) and isinstance(message, str)
    return [_escaped(path.replace("\\", "\\\\")), label, probability, status, _escaped(message), *more]


def _escaped(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unescaped(text: str) -> str:
    """What `_sayable` made this of."""
    return ESCAPE.sub(lambda found: chr(0xDC00 + int(found[1], 16)) if found[1] else "\\", text)
