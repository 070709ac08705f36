"""Remote: folders and files behind a URL, as s3://bucket/images, by fsspec: netkit's extra [remote] installs it."""

from collections.abc import Callable, Iterator
from typing import Any

from nets.errors import ImageError, UsageError

MARK = "://"
AT_ONCE = 16  # files read, at least: each takes as long as the way there and back, whatever the cores


def is_remote(path: str) -> bool:
    """Whether it is a URL, not a path."""
    return MARK in path


def read(url: str, *, largest: int) -> bytes:
    """A file's bytes; ImageError where it cannot be had, or has over `largest`."""
    try:
        system, path = _system(url)
        size = system.info(path)["size"]
        if size is not None and size > largest:
            raise ImageError("too-large", f"{size:,} bytes, over the limit of {largest:,}")
        content: bytes = system.cat_file(path, start=0, end=largest + 1)
    except FileNotFoundError:
        raise ImageError("vanished", "no such file") from None
    except ImageError:
        raise
    except Exception as fault:  # each system has its own
        raise ImageError("unreadable", f"cannot be read: {_told(fault)}") from None
    if len(content) > largest:
        raise ImageError("too-large", f"over the limit of {largest:,} bytes")
    if not content:
        raise ImageError("not-an-image", "an empty file")
    return content


def find(url: str, *, wanted: Callable[[str], bool]) -> Iterator[str]:
    """The URLs of a folder's files with `wanted` names, of its subfolders' too, or of what matches, or the URL itself.

    In sorted order; one folder's names are in memory at a time. Raises UsageError, before the first, where the URL
    cannot be asked for, or is a folder that cannot be listed.
    """
    try:
        system, path = _system(url)
        if any(sign in path for sign in "*?["):
            return iter([system.unstrip_protocol(each) for each in sorted(system.glob(path)) if wanted(each)])
        if not system.isdir(path):
            return iter([url])
        first = _entries(system, path)
    except Exception as fault:  # as above
        if isinstance(fault, ModuleNotFoundError) and fault.name == "fsspec":
            raise  # which extra has it is told elsewhere
        raise UsageError(f"{url}: cannot be listed: {_told(fault)}") from None
    return _walk(system, first, wanted)


def _walk(system: Any, first: Iterator[tuple[str, bool]], wanted: Callable[[str], bool]) -> Iterator[str]:
    levels = [first]
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                levels.append(_entries(system, path))
                break
            if wanted(path):
                yield system.unstrip_protocol(path)
        else:
            levels.pop()


def _entries(system: Any, folder: str) -> Iterator[tuple[str, bool]]:
    """Sorted by name; True for folders."""
    found = system.ls(folder, detail=True)
    itself = folder.rstrip("/")  # object stores list a folder's own mark in it
    entries = ((entry["name"], entry["type"] == "directory") for entry in found)
    return iter(sorted(entry for entry in entries if entry[0].rstrip("/") != itself))


def _system(url: str) -> tuple[Any, str]:
    """What keeps the file, and its path there."""
    from fsspec.core import url_to_fs  # needs an extra

    return url_to_fs(url)


def _told(fault: Exception) -> str:
    return f"{fault}".strip().partition("\n")[0] or type(fault).__name__
