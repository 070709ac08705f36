"""Input paths, from arguments: files, folders, glob patterns, URLs, tables, Parquet files and stdin."""

import fnmatch
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from netkit.core import remote
from netkit.core.errors import UsageError
from netkit.core.walk import Entry, is_skipped, list_folder, walk
from netkit.data import table
from netkit.images.files import SUFFIXES, Skipped, find_images, is_image_name

STDIN = "-"
PARQUET = ".parquet"
ANY_DEPTH = "**"  # in a pattern: zero or more nested folders
STDIN_CHUNK_BYTES = 65_536


def find_inputs(
    arguments: Sequence[str],
    *,
    separator: bytes = b"\n",
    path_column: str = table.PATH_COLUMN,
    skipped: Skipped | None = None,
) -> Iterator[str]:
    """Yield the paths of all inputs in the order of `arguments`.

    A file's path is yielded unchanged. A folder is searched for images by `netkit.images.files.find_images`, and a glob
    pattern is expanded in sorted order. A table and a Parquet file give the paths in their column `path_column`, and
    "-" the paths on stdin, each followed by `separator`. URLs are listed by `netkit.core.remote.find`, but
    file:// URLs like paths. Files and folders that walks skip are counted in `skipped`.
    Raises UsageError or DataError, before the first path, if an argument matches nothing or cannot be read.
    """
    counts = Skipped() if skipped is None else skipped
    return chain.from_iterable([_paths_of(argument, separator, path_column, counts) for argument in arguments])


def _paths_of(argument: str, separator: bytes, path_column: str, skipped: Skipped) -> Iterable[str]:
    """Return the paths of one argument, listed lazily. Raises UsageError at once if there are none."""
    if not argument:
        raise UsageError("a path is empty; pass a file, a folder, a pattern or a URL")
    if argument == STDIN:
        paths = _read_paths(sys.stdin.buffer, separator)
        if (first := next(paths, None)) is None:
            raise UsageError("-: stdin contains no paths; write paths to it, e.g. ls images/*.png | netkit infer -")
        return chain([first], paths)
    local = remote.local_path(argument)
    if _is_parquet(local):
        from netkit.infer.output import parquet  # needs an extra

        return parquet.read_paths(local, column=path_column)
    if table.is_table(local) and os.path.isfile(local):
        return table.read_paths(Path(local), path_column)
    if local != argument:  # a file:// URL; the URL of a single file is not changed
        found = _local_paths(local, skipped)
        return [argument] if found == [local] else (Path(path).as_uri() for path in found)
    if remote.is_remote(argument) and table.is_table(argument):
        raise UsageError(f"{argument}: a table cannot be a URL; copy it to this machine, or save it as Parquet")
    if remote.is_remote(argument):
        urls = remote.find(argument, select=skipped.select)
        if (first := next(urls, None)) is None:
            raise UsageError(_no_images(argument, skipped))
        return chain([first], urls)  # unlike for a local folder, listing it twice would be slow
    return _local_paths(argument, skipped)


def _local_paths(argument: str, skipped: Skipped) -> Iterable[str]:
    """Return the paths of a file, folder or pattern. Raises UsageError at once if there are none."""
    if os.path.isdir(argument):
        if next(find_images(argument, counts := Skipped()), None) is None:
            raise UsageError(_no_images(argument, counts))
        return find_images(argument, skipped)
    if os.path.lexists(argument):
        return [argument]
    if not _is_pattern(argument):
        if not is_image_name(argument):
            raise UsageError(f"{argument}: no such file or folder")
        return [argument]  # a missing image becomes a row with an error
    if argument.split(os.sep).count(ANY_DEPTH) > 1:
        raise UsageError(f"{argument}: a pattern may contain '{ANY_DEPTH}' only once")
    if next(_expand(argument, Skipped()), None) is None:
        raise UsageError(f"{argument}: matches nothing, or only folders without images")
    return _expand(argument, skipped)


def _no_images(argument: str, skipped: Skipped) -> str:
    where = "there" if remote.is_remote(argument) else "in this folder"
    message = f"{argument}: no images {where} (looked for {', '.join(SUFFIXES)})"
    return f"{message}; {skipped}" if skipped else message


def _is_parquet(argument: str) -> bool:
    """Whether `argument` is a Parquet file, local or behind a URL."""
    if remote.is_remote(argument):
        return argument.partition(remote.CHAIN)[0].lower().endswith(PARQUET)
    return argument.lower().endswith(PARQUET) and os.path.isfile(argument)


def _is_pattern(argument: str) -> bool:
    """Whether `argument` is a glob pattern. Brackets that match nothing may be part of an image's name."""
    if not glob.has_magic(argument):
        return False
    may_be_name = is_image_name(argument) and not set(argument) & {"*", "?"}
    return not may_be_name or next(_expand(argument, Skipped()), None) is not None


def _read_paths(file: BinaryIO, separator: bytes) -> Iterator[str]:
    """Yield each path as soon as it arrives. Empty lines are skipped.

    Raises UsageError if NUL bytes end the paths, but `separator` is another byte.
    """
    rest = b""
    while content := os.read(file.fileno(), STDIN_CHUNK_BYTES):
        if b"\0" in content and separator not in content:
            raise UsageError("-: NUL bytes separate the paths on stdin; pass -0 as well")
        *lines, rest = (rest + content).split(separator)
        yield from (_decode_path(line, separator) for line in lines if line)
    if rest:
        yield _decode_path(rest, separator)


def _decode_path(line: bytes, separator: bytes) -> str:
    """Decode a path, without the carriage return of a Windows line end unless a file's name ends with one."""
    is_windows_line = separator == b"\n" and line.endswith(b"\r") and not os.path.lexists(line)
    return os.fsdecode(line[:-1] if is_windows_line else line)


def _expand(pattern: str, skipped: Skipped) -> Iterator[str]:
    """Yield the files that match and the images in folders that match, without duplicates."""
    walked: set[str] = set()  # `**` matches both a folder and everything in it
    for path in _matches(pattern):
        if walked and not walked.isdisjoint(map(str, Path(path).parents)):
            continue
        if os.path.isdir(path):
            walked.add(str(Path(path)))
            yield from find_images(path, skipped)
        else:
            yield path


def _matches(pattern: str) -> Iterator[str]:
    """Expand a pattern like a shell with globstar, sorted within each folder, a folder before its content.

    Names that walks skip, such as hidden ones, match only a pattern that begins with the same character.
    """
    folder, name = os.path.split(pattern)
    for parent in _matches(folder) if glob.has_magic(folder) else [folder]:
        if name == ANY_DEPTH:
            yield from _nested_folders(parent)
        elif glob.has_magic(name):
            for path, _ in _entries(parent):
                found = os.path.basename(path)
                if fnmatch.fnmatch(found, name) and (found[0] == name[0] or not is_skipped(found)):
                    yield path
        elif os.path.lexists(path := os.path.join(parent, name)):
            yield path


def _nested_folders(top: str) -> Iterator[str]:
    """Yield `top`, if it is a folder, and all its subfolders that walks do not skip."""

    def subfolders(folder: str) -> Iterable[Entry]:
        return [
            (path, True)
            for path, is_folder in list_folder(folder)
            if is_folder and not is_skipped(os.path.basename(path))
        ]

    return walk([(top, True)] if os.path.isdir(top or os.curdir) else [], subfolders, with_folders=True)


def _entries(folder: str) -> Iterable[Entry]:
    """List a folder; empty if it cannot be listed."""
    try:
        return list_folder(folder)
    except OSError:
        return []
