"""The true labels of files in folders that are named after labels, by the rule of training and evaluation."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from netkit.core.remote import CHAIN, GLOB_CHARACTERS, folder_above_pattern, is_remote, local_path

CACHED_FOLDERS = 1024  # most rows are in the same folder as the row before
TrueLabel = Callable[[str], str | None]


def folder_labels(labels: Iterable[str], inputs: Iterable[str]) -> TrueLabel:
    """Return a function from the path of a file to its true label; None if no folder is named after one of `labels`.

    `inputs` are the arguments that the user passed. The label is the name of the outermost folder below a passed
    folder, as in training: "cat" for photos/cat/dog/1.png in photos/. If no folder below it is named after a label, or
    the file is in no passed folder, the label is the name of the nearest folder around the file.
    """
    known, passed = frozenset(labels), {_names(folder) for argument in inputs for folder in _searched(argument)}

    @lru_cache(CACHED_FOLDERS)
    def label_of(folder: str) -> str | None:
        names = _names(folder)
        depth = next((depth for depth in range(1, len(names)) if names[:depth] in passed), len(names))
        return next((name for name in (*names[depth:], *reversed(names[:depth])) if name in known), None)

    return lambda path: label_of(_folder_of(path))


def _searched(argument: str) -> Iterator[str]:
    """Yield the folder that an argument is or may be, and the one that is searched for a glob pattern."""
    yield argument
    if GLOB_CHARACTERS & set(argument) and not os.path.lexists(argument):
        yield folder_above_pattern(argument)


def _folder_of(path: str) -> str:
    if not is_remote(path):
        return os.path.dirname(path)
    file, chain, archive = path.partition(CHAIN)
    return file[: file.rfind("/") + 1] + chain + archive


def _names(folder: str) -> tuple[str, ...]:
    """Return the names in the absolute path of a folder. Those in a URL follow the archive that contains the folder."""
    folder = local_path(folder)
    if not is_remote(folder):
        return Path(os.path.abspath(folder)).parts
    inner, _, archive = folder.partition(CHAIN)
    return (archive, *inner.rstrip("/").split("/"))
