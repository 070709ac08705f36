"""From what was typed to the paths of all inputs: files, folders, globs, and lists on stdin."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from nets.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
STDIN = "-"
READ = 65_536  # bytes of stdin at a time


def find(arguments: Sequence[str], *, separator: bytes = b"\n") -> Iterator[str]:
    """The paths of all inputs, in order: files as named, folders walked, globs expanded in sorted order.

    A folder yields every entry with an image suffix, whatever it is, and walks its real subfolders; one folder's names
    are in memory at a time. "-" stands for the paths on stdin, each followed by `separator`, as files that are named.
    Raises UsageError, before the first path, where an argument names nothing at all.
    """
    starts = [start for argument in arguments for start in _expand(argument)]
    for start in starts:
        if os.path.isdir(start) and next(_walk(start), None) is None:
            raise UsageError(f"{start}: no images in this folder (looked for {', '.join(SUFFIXES)})")
    return (path for start in starts for path in _from(start, separator))


def _from(start: str, separator: bytes) -> Iterable[str]:
    if start == STDIN:
        return _listed(sys.stdin.buffer, separator)
    return _walk(start) if os.path.isdir(start) else (start,)


def _listed(file: BinaryIO, separator: bytes) -> Iterator[str]:
    """Each as soon as it is there; nothing stands for no path."""
    rest = b""
    while content := os.read(file.fileno(), READ):
        *whole, rest = (rest + content).split(separator)
        yield from (os.fsdecode(path) for path in whole if path)
    if rest:
        yield os.fsdecode(rest)


def _expand(argument: str) -> list[str]:
    if argument == STDIN or os.path.lexists(argument):
        return [argument]
    if not glob.has_magic(argument):
        if argument.lower().endswith(SUFFIXES):
            return [argument]  # what is named explicitly is a row, be it there or not
        raise UsageError(f"{argument}: no such file or folder")
    matches = _outermost(sorted(_matches(argument)))
    if not matches:
        raise UsageError(f"{argument}: matches nothing")
    return matches


def _matches(pattern: str) -> Iterable[str]:
    """As a shell with globstar has them: no hidden names, unless they are asked for, and no links followed by `**`."""
    if "**" not in Path(pattern).parts:
        return glob.glob(pattern)
    anchor = Path(pattern).anchor
    found = Path(anchor).glob(str(Path(pattern).relative_to(anchor)))  # glob.glob follows links, for ever in a loop
    plain = sum(part.startswith(".") for part in Path(pattern).parts)
    return (str(path) for path in found if sum(part.startswith(".") for part in path.parts) <= plain)


def _outermost(paths: list[str]) -> list[str]:
    """Those `paths` that lie in no other one: `**` matches a folder, and again all that it yields when it is walked."""
    folders = {Path(path) for path in paths if os.path.isdir(path)}
    return [path for path in paths if folders.isdisjoint(Path(path).parents)] if folders else paths


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
        is_image = name.lower().endswith(SUFFIXES)
        if is_image or is_folder:
            yield within + name, not is_image
