"""Input paths, from arguments: files, folders, glob patterns, URLs, Parquet files and stdin."""

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
from netkit.core.walk import Entry, list_folder
from netkit.images.files import SUFFIXES, find_images, is_image_name

STDIN = "-"
TABLE_SUFFIX = ".parquet"
ANY_DEPTH = "**"  # in a pattern: zero or more nested folders
STDIN_CHUNK_BYTES = 65_536


def find_inputs(arguments: Sequence[str], *, separator: bytes = b"\n") -> Iterator[str]:
    """Yield the paths of all inputs in the order of `arguments`.

    A file's path is yielded unchanged. A folder is searched for images by `netkit.images.files.find_images`, and a glob
    pattern is expanded in sorted order. A Parquet file gives the paths in its column `path`, and "-" the paths on
    stdin, each followed by `separator`. URLs are listed by `netkit.core.remote.find`.
    Raises UsageError, before the first path, if an argument matches nothing.
    """
    return chain.from_iterable([_paths_of(argument, separator) for argument in arguments])


def _paths_of(argument: str, separator: bytes) -> Iterable[str]:
    """Return the paths of one argument, listed lazily. Raises UsageError at once if there are none."""
    if argument == STDIN:
        return _read_paths(sys.stdin.buffer, separator)
    if _is_table(argument):
        from netkit.infer.output import parquet  # needs an extra

        return parquet.read_paths(argument)
    suffixes = ", ".join(SUFFIXES)
    if remote.is_remote(argument):
        urls = remote.find(argument, accepts=is_image_name)
        if (first := next(urls, None)) is None:
            raise UsageError(f"{argument}: no images there (looked for {suffixes})")
        return chain([first], urls)  # unlike a local folder below, listing it twice would be slow
    if os.path.isdir(argument):
        if next(find_images(argument), None) is None:
            raise UsageError(f"{argument}: no images in this folder (looked for {suffixes})")
        return find_images(argument)
    if os.path.lexists(argument):
        return [argument]
    if not _is_pattern(argument):
        if not is_image_name(argument):
            raise UsageError(f"{argument}: no such file or folder")
        return [argument]  # a missing image becomes a row with an error
    if argument.split(os.sep).count(ANY_DEPTH) > 1:
        raise UsageError(f"{argument}: a pattern may contain '{ANY_DEPTH}' only once")
    if next(_expand(argument), None) is None:
        raise UsageError(f"{argument}: matches nothing, or only folders without images")
    return _expand(argument)


def _is_table(argument: str) -> bool:
    """Whether `argument` is a Parquet file, local or behind a URL."""
    if remote.is_remote(argument):
        return argument.partition(remote.CHAIN)[0].lower().endswith(TABLE_SUFFIX)
    return argument.lower().endswith(TABLE_SUFFIX) and os.path.isfile(argument)


def _is_pattern(argument: str) -> bool:
    """Whether `argument` is a glob pattern. Brackets that match nothing may be part of an image's name."""
    if not glob.has_magic(argument):
        return False
    may_be_name = is_image_name(argument) and not set(argument) & {"*", "?"}
    return not may_be_name or next(_expand(argument), None) is not None


def _read_paths(file: BinaryIO, separator: bytes) -> Iterator[str]:
    """Yield each path as soon as it arrives. Empty lines are skipped."""
    rest = b""
    while content := os.read(file.fileno(), STDIN_CHUNK_BYTES):
        *lines, rest = (rest + content).split(separator)
        yield from (_decode_path(line, separator) for line in lines if line)
    if rest:
        yield _decode_path(rest, separator)


def _decode_path(line: bytes, separator: bytes) -> str:
    """Decode a path, without the carriage return of a Windows line end unless a file's name ends with one."""
    is_windows_line = separator == b"\n" and line.endswith(b"\r") and not os.path.lexists(line)
    return os.fsdecode(line[:-1] if is_windows_line else line)


def _expand(pattern: str) -> Iterator[str]:
    """Yield the files that match and the images in folders that match, without duplicates."""
    walked: set[str] = set()  # `**` matches both a folder and everything in it
    for path in _matches(pattern):
        if walked and not walked.isdisjoint(map(str, Path(path).parents)):
            continue
        if os.path.isdir(path):
            walked.add(str(Path(path)))
            yield from find_images(path)
        else:
            yield path


def _matches(pattern: str) -> Iterator[str]:
    """Expand a pattern like a shell with globstar, sorted within each folder, a folder before its content.

    Hidden names match only a pattern that begins with a dot, and `**` does not follow symbolic links.
    """
    folder, name = os.path.split(pattern)
    for parent in _matches(folder) if glob.has_magic(folder) else [folder]:
        if name == ANY_DEPTH:
            yield from _nested_folders(parent)
        elif glob.has_magic(name):
            paths = (path for path, _ in _entries(parent, skip_hidden=not name.startswith(".")))
            yield from (path for path in paths if fnmatch.fnmatch(os.path.basename(path), name))
        elif os.path.lexists(path := os.path.join(parent, name)):
            yield path


def _nested_folders(top: str) -> Iterator[str]:
    """Yield `top`, if it is a folder, and all its subfolders that are not hidden."""
    remaining = [top] if os.path.isdir(top or os.curdir) else []
    while remaining:
        yield (folder := remaining.pop())
        subfolders = [path for path, is_folder in _entries(folder, skip_hidden=True) if is_folder]
        remaining += reversed(subfolders)


def _entries(folder: str, *, skip_hidden: bool) -> Iterable[Entry]:
    """List a folder; empty if it cannot be listed."""
    try:
        return list_folder(folder, skip_hidden=skip_hidden)
    except OSError:
        return []
