"""From what was typed to the paths of all inputs: files, folders, globs, and lists on stdin."""

import fnmatch
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from netkit.core import remote
from netkit.core.errors import UsageError
from netkit.images.decoder import SUFFIXES

STDIN = "-"
TABLE = ".parquet"
ANY_DEPTH = "**"  # in a pattern: no folder or any number of them, one in another
READ = 65_536  # bytes of stdin at a time


def find_inputs(arguments: Sequence[str], *, separator: bytes = b"\n") -> Iterator[str]:
    """The paths of all inputs, in order: files as named, folders walked, globs expanded in sorted order.

    A folder yields every entry with an image suffix, whatever it is, and walks its real subfolders; one folder's names
    are in memory at a time. "-" stands for the paths on stdin, each followed by `separator`, as files that are named; a
    Parquet file for those in its column `path`. URLs are walked and globbed as netkit.core.remote has it.
    Raises UsageError, before the first path, where an argument names nothing at all.
    """
    found = [_required(argument, separator) for argument in arguments]
    return (path for paths in found for path in paths())


def _required(argument: str, separator: bytes) -> Callable[[], Iterable[str]]:
    """What lists the paths of an argument, once there are some; what is far away is asked for a single time."""
    if remote.is_remote(argument):
        if argument.partition(remote.CHAIN)[0].lower().endswith(TABLE):
            listed = _listed_in(argument)
            return lambda: listed
        paths = remote.find(argument, wanted=_is_image)
        first = next(paths, None)
        if first is None:
            raise UsageError(f"{argument}: no images there (looked for {', '.join(SUFFIXES)})")
        return lambda: chain([first], paths)
    _require_some(argument)
    return lambda: _from(argument, separator)


def _from(argument: str, separator: bytes) -> Iterable[str]:
    if argument == STDIN:
        return _listed(sys.stdin.buffer, separator)
    if _is_table(argument):
        return _listed_in(argument)
    if os.path.lexists(argument):
        return _walk(argument) if os.path.isdir(argument) else (argument,)
    # what is named explicitly is a row, be it there or not
    return _globbed(argument) if _is_pattern(argument) else (argument,)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _is_table(argument: str) -> bool:
    """Whether it is a Parquet file, whose column `path` holds paths."""
    return argument.lower().endswith(TABLE) and os.path.isfile(argument)


def _listed_in(table: str) -> Iterator[str]:
    from netkit.infer.output import parquet  # needs an extra

    return parquet.paths_in(table)


def _is_pattern(argument: str) -> bool:
    """Whether it stands for others; where it matches nothing, brackets may be part of an image's name."""
    if not glob.has_magic(argument):
        return False
    is_name = _is_image(argument) and not set(argument) & {"*", "?"}
    return not is_name or next(_globbed(argument), None) is not None


def _require_some(argument: str) -> None:
    if _is_table(argument):
        _listed_in(argument)
    if argument == STDIN or (os.path.lexists(argument) and not os.path.isdir(argument)):
        return
    if os.path.isdir(argument):
        if next(_walk(argument), None) is None:
            raise UsageError(f"{argument}: no images in this folder (looked for {', '.join(SUFFIXES)})")
    elif not _is_pattern(argument):
        if not _is_image(argument):
            raise UsageError(f"{argument}: no such file or folder")
    elif argument.split(os.sep).count(ANY_DEPTH) > 1:
        raise UsageError(f"{argument}: '{ANY_DEPTH}' may stand once in a pattern")
    elif next(_globbed(argument), None) is None:
        raise UsageError(f"{argument}: matches nothing, or folders without images")


def _listed(file: BinaryIO, separator: bytes) -> Iterator[str]:
    """Each as soon as it is there; nothing stands for no path."""
    rest = b""
    while content := os.read(file.fileno(), READ):
        *whole, rest = (rest + content).split(separator)
        yield from (_spelled(path, separator) for path in whole if path)
    if rest:
        yield _spelled(rest, separator)


def _spelled(path: bytes, separator: bytes) -> str:
    """The path of a line, from Windows too: what ends it there is taken off, but where the file's name ends so."""
    ends_as_in_windows = separator == b"\n" and path.endswith(b"\r") and not os.path.lexists(path)
    return os.fsdecode(path[:-1] if ends_as_in_windows else path)


def _globbed(pattern: str) -> Iterator[str]:
    """Files that match, and what folders that match yield, each once: `**` matches a folder and all that is in it."""
    walked: set[str] = set()
    for path in _matches(pattern):
        if walked and not walked.isdisjoint(map(str, Path(path).parents)):
            continue
        if os.path.isdir(path):
            walked.add(str(Path(path)))
            yield from _walk(path)
        else:
            yield path


def _matches(pattern: str) -> Iterator[str]:
    """As a shell with globstar has them: no hidden names, unless they are asked for, and no links followed by `**`.

    In sorted order within each folder, a folder's before those of its subfolders.
    """
    folder, name = os.path.split(pattern)
    for within in _matches(folder) if glob.has_magic(folder) else (folder,):
        if name == ANY_DEPTH:
            yield from _folders(within)
        elif glob.has_magic(name):
            names = fnmatch.filter(_names(within), name)
            yield from (os.path.join(within, each) for each in names if name.startswith(".") or each[0] != ".")
        elif os.path.lexists(path := os.path.join(within, name)):
            yield path


def _folders(top: str) -> Iterator[str]:
    """`top`, and all real folders in it but hidden ones."""
    left = [top] if os.path.isdir(top or os.curdir) else []
    while left:
        folder = left.pop()
        yield folder
        inner = (os.path.join(folder, name) for name in reversed(_names(folder)) if name[0] != ".")
        left += (path for path in inner if os.path.isdir(path) and not os.path.islink(path))


def _names(folder: str) -> list[str]:
    """Sorted; none where the folder cannot be read, or is none."""
    try:
        return sorted(os.listdir(folder or os.curdir))
    except OSError:
        return []


def _walk(folder: str) -> Iterator[str]:
    levels = [_entries(folder)]  # the folders on the way down: no recursion, for they nest deeper than Python's stack
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                levels.append(_entries(path))
                break
            yield path
        else:
            levels.pop()


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Sorted by name, what has an image suffix, and real folders: these with True, to be walked."""
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield folder, False  # as a row, which says why; what lies in it is not passed over in silence
        return
    within = os.path.join(folder, "")
    for name, is_folder in names:
        is_image = _is_image(name)
        if is_image or is_folder:
            yield within + name, not is_image
