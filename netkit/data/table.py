"""Read .csv and .tsv tables that list image files: columns `path`, `label` and optionally `split`.

Cells are separated by commas, semicolons or tabs. The text is UTF-8, or UTF-16 with a byte order mark. Paths are
relative to the table, absolute, or URLs. A first line such as `sep=;`, which Excel reads, is skipped.
"""

import codecs
import csv
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from netkit.core.errors import DataError, UsageError
from netkit.core.remote import is_remote, local_path
from netkit.data.image_entry import TEST, TRAIN, VAL, ImageEntry, Splits, split_of
from netkit.data.options import DEFAULT, Options

logger = logging.getLogger(__name__)

PATH_COLUMN = DEFAULT.path_column
SPLIT_COLUMN = "split"
SPLIT_COLUMNS = (SPLIT_COLUMN, "set", "subset", "partition", "dataset", "data set", "data_set")
SUFFIXES = (".csv", ".tsv")  # in upper or lower case
DELIMITERS = (",", ";", "\t")
EXCEL_SEPARATOR = "sep="  # at the start of a first line that names the separator
UTF_16_STARTS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
OPTIONS = ("--path-column", "--label-column")
MAX_EXAMPLES = 3  # in a message


class _Row(NamedTuple):
    """The cells of the requested columns, and the line on which the row ends."""

    cells: list[str]
    line: int


def is_table(path: str) -> bool:
    """Whether `path` is named like a table."""
    return path.lower().endswith(SUFFIXES)


def read_paths(table: Path, column: str) -> Iterator[str]:
    """Yield the path in each row, "" for an empty cell. Whitespace around a path is removed unless such a file exists.

    Raises UsageError before the first path without the column.
    """
    rows = _read(table, [column], optional=())
    names = (_without_blanks(table, row.cells[0]) for row in rows)
    return (_located(table, name) if name else "" for name in names)


def read_table(table: Path, options: Options) -> Splits:
    """List the images in a table. No image file is opened. An empty `split` means a training image.

    Whitespace around labels is removed, and around paths unless such a file exists. Repeated rows are used once. Raises
    DataError if the table cannot be read, a row lacks a path or a label, or has an unknown split or a label that is not
    UTF-8, or a file has two labels or is in two splits; UsageError if a column is missing.
    """
    columns = [options.path_column, options.label_column]
    splits: dict[str, list[ImageEntry]] = {TRAIN: [], VAL: [], TEST: []}
    places: dict[str, tuple[str, str]] = {}  # file -> label, split
    conflicts, blank_paths, blank_labels, repeated = [], [], [], 0
    rows = list(_read(table, columns, optional=SPLIT_COLUMNS))
    split_column = _split_column(rows)
    for (name, label, *split_cells), line in rows:
        if not name.strip() or not label.strip():
            raise DataError(f"{table}, line {line}: a row needs a value in the columns {_quoted(columns, ' and ')}")
        if not _is_text(label):
            raise DataError(f"{table}, line {line}: the label {label!r} is not UTF-8; save the table as UTF-8")
        split_name = split_cells[split_column]
        split = split_of(split_name) if split_name.strip() else TRAIN
        if split is None:
            raise DataError(f"{table}, line {line}: split must be train, val or test, not {split_name!r}")
        clean_name = _without_blanks(table, name)
        entry = ImageEntry(_located(table, clean_name), clean_name, label.strip())
        blank_paths += [name] if name != entry.name else []
        blank_labels += [label] if label != entry.label else []
        path = local_path(entry.path)
        file = path if is_remote(path) else os.path.abspath(path)
        place = entry.label, split
        earlier = places.get(file)
        if earlier is None:
            places[file] = place
            splits[split].append(entry)
        elif earlier == place:
            repeated += 1
        else:
            conflicts.append(f"{name} ({' and '.join(sorted({*place} ^ {*earlier}))})")
    if conflicts:
        raise DataError(
            f"{table}: {len(conflicts):,} rows repeat a file with another label or split: {_first(conflicts)}; "
            "keep one row for each file"
        )
    for kind, cells in (("paths", blank_paths), ("labels", blank_labels)):
        if cells:
            logger.info("%s: blanks around %s %s removed, such as %r", table, f"{len(cells):,}", kind, cells[0])
    if repeated:
        logger.info("%s: %s rows are repeated and are used once", table, f"{repeated:,}")
    sources = dict.fromkeys(splits, f"column {SPLIT_COLUMNS[split_column]}") if splits[VAL] or splits[TEST] else {}
    return Splits(splits[TRAIN], splits[VAL], splits[TEST], sources)


def _split_column(rows: Sequence[_Row]) -> int:
    """Return the index in SPLIT_COLUMNS of the first column with values, which are splits unless it is `split`."""
    for index in range(len(SPLIT_COLUMNS)):
        values = {row.cells[2 + index].strip() for row in rows} - {""}
        if values and (SPLIT_COLUMNS[index] == SPLIT_COLUMN or all(map(split_of, values))):
            return index
    return 0


def _is_text(label: str) -> bool:
    """Whether the bytes of a cell were valid UTF-8, and not surrogate escapes."""
    return label == label.encode("utf-8", "replace").decode()


def _read(table: Path, columns: Sequence[str], *, optional: Sequence[str]) -> Iterator[_Row]:
    """Return the rows of a table, read lazily. Optional columns may be missing; their cells are then "".

    Raises UsageError at once if the header lacks a column, DataError if the table cannot be read, now or later.
    """
    try:
        with _open(table) as file:
            first_line = file.readline()
            header_line = 2 if first_line.lower().startswith(EXCEL_SEPARATOR) else 1
            line = file.readline() if header_line == 2 else first_line
            delimiter, header = _header(line, [*columns, *optional])
    except (OSError, UnicodeError, csv.Error) as exc:
        raise _unreadable(table, exc) from None
    if not header:
        raise DataError(f"{table}: the first line is empty; it must name the columns")
    keys = [*map(_key, header)]
    options = dict(zip(columns, OPTIONS, strict=False))
    if missing := [column for column in columns if _key(column) not in keys]:
        raise UsageError(
            f"{table}: no column {_quoted(missing, ' or ')}; its columns are {_quoted(header, ', ')}; "
            f"choose with {' and '.join(options[column] for column in missing)}"
        )
    indices = [keys.index(key) if (key := _key(column)) in keys else None for column in (*columns, *optional)]
    return _rows(table, delimiter, indices, header_line=header_line)


def _rows(table: Path, delimiter: str, indices: Sequence[int | None], *, header_line: int) -> Iterator[_Row]:
    try:
        with _open(table) as file:
            reader = csv.reader(file, delimiter=delimiter)
            for _ in range(header_line):
                next(reader)
            for row in reader:
                if row:  # not an empty line
                    cells = [row[index] if index is not None and index < len(row) else "" for index in indices]
                    yield _Row(cells, reader.line_num)
    except (OSError, UnicodeError, csv.Error) as exc:
        raise _unreadable(table, exc) from None


def _header(line: str, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """Return the delimiter that gives most of the wanted columns, else most columns, and the names of the columns."""
    headers = {
        delimiter: [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        for delimiter in DELIMITERS
    }
    keys = set(map(_key, wanted))
    return max(headers.items(), key=lambda item: (len(keys & {*map(_key, item[1])}), len(item[1])))


def _key(column: str) -> str:
    """Return the column's name as it is compared."""
    return column.strip().lower()


def _open(table: Path) -> TextIO:
    with open(table, "rb") as file:
        encoding = "utf-16" if file.read(2) in UTF_16_STARTS else "utf-8-sig"
    return open(table, newline="", encoding=encoding, errors="surrogateescape")


def _without_blanks(table: Path, name: str) -> str:
    """Return the path `name` without whitespace around it, unless a file has exactly this name."""
    stripped = name.strip()
    return name if name != stripped and os.path.lexists(table.parent / name) else stripped


def _located(table: Path, name: str) -> str:
    """Return the path of the file that the table calls `name`, perhaps in Windows' spelling."""
    if is_remote(name):
        return name
    path = table.parent / name
    return str(table.parent / name.replace("\\", "/") if "\\" in name and not os.path.lexists(path) else path)


def _unreadable(table: Path, exc: Exception) -> DataError:
    return DataError(f"{table}: cannot be read as a table: {getattr(exc, 'strerror', None) or exc}")


def _quoted(names: Sequence[str], separator: str) -> str:
    return separator.join(map(repr, names))


def _first(texts: Sequence[str]) -> str:
    return ", ".join(texts[:MAX_EXAMPLES]) + (", ..." if len(texts) > MAX_EXAMPLES else "")
