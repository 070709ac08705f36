"""Remote: folders and files behind a URL, as s3://bucket/images, by fsspec: netkit's extra [remote] installs it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from netkit.core.errors import ImageError, MissingExtraError, NetkitError, UsageError

MARK = "://"
CHAIN = "::"  # fsspec's: what comes before lies in what comes behind
MAGIC = frozenset("*?[")
AT_ONCE = 16  # files read, at least: each takes as long as the way there and back, whatever the cores


def is_remote(path: str) -> bool:
    """Whether it is a URL, not a path."""
    return MARK in path


def read(url: str, *, largest: int) -> bytes:
    """A file's bytes; ImageError where it cannot be had, or has over `largest`.

    Raises MissingExtraError or UsageError where a package is missing that it takes to ask for it.
    """
    try:
        system, path = _system(url)
        size = system.info(path)["size"]
        if size is not None and size > largest:
            raise ImageError("too-large", f"{size:,} bytes, over the limit of {largest:,}")
        content = b"" if size == 0 else _start(system, path, largest + 1)  # object stores refuse to send no bytes
    except FileNotFoundError:
        raise ImageError("vanished", "no such file") from None
    except NetkitError:
        raise
    except Exception as fault:  # each system has its own
        raise ImageError("unreadable", f"cannot be read: {_told(fault)}") from None
    if len(content) > largest:
        raise ImageError("too-large", f"over the limit of {largest:,} bytes")
    if not content:
        raise ImageError("not-an-image", "an empty file")
    return content


def _start(system: Any, path: str, count: int) -> bytes:
    from fsspec.implementations.arrow import ArrowFSWrapper  # needs an extra

    # Arrow's files, Hadoop's among them, are else opened as streams, which cannot say where they are
    options = {"seekable": True} if isinstance(system, ArrowFSWrapper) else {}
    content: bytes = system.cat_file(path, start=0, end=count, **options)
    return content


def opened(url: str) -> Any:
    """A file, to be read from anywhere in it. Raises UsageError where it cannot be had, MissingExtraError as `read`."""
    try:
        system, path = _system(url)
        return system.open(path)
    except NetkitError:
        raise
    except Exception as fault:  # as above
        raise UsageError(f"{url}: cannot be read: {_told(fault)}") from None


def find(url: str, *, wanted: Callable[[str], bool]) -> Iterator[str]:
    """The URLs of files with `wanted` names in a folder and its subfolders, or in all that match; or the URL itself.

    In sorted order; of folders one's names are in memory at a time. They begin as `url` does, whatever lies before or
    behind its path. A subfolder that cannot be listed stands for itself. Raises UsageError, before the first, where the
    URL cannot be asked for; MissingExtraError where there is no fsspec.
    """
    try:
        system, path = _system(url)
        is_folder = system.isdir(path)
        if not is_folder and (not set(path) & MAGIC or system.exists(path)):
            return iter([url])
        if is_folder:
            place = _Place(system, url, path)
            return _walk(place, _entries(system, path), wanted)
        place = _Place.above(url)
        return _matching(place, sorted(system.glob(path)), wanted)
    except NetkitError:
        raise
    except Exception as fault:  # as above
        raise UsageError(f"{url}: cannot be listed: {_told(fault)}") from None


class _Place(NamedTuple):
    """A folder: what keeps it, its URL, and its path there."""

    system: Any
    url: str
    path: str

    @classmethod
    def above(cls, pattern: str) -> "_Place":
        """The folder in whose subfolders all that matches lies."""
        first, mark, rest = pattern.partition(CHAIN)
        start = min(first.index(sign) for sign in MAGIC if sign in first)
        url = first[: first.rindex("/", 0, start)] + mark + rest
        return cls(_system(url)[0], url, _system(url)[1])

    def url_of(self, path: str) -> str:
        """That of a path in it."""
        within = self.path.rstrip("/")
        if within and not path.startswith(f"{within}/"):
            raise UsageError(f"{self.url}: gives {path}, which does not lie in it")
        first, mark, rest = self.url.partition(CHAIN)
        start = first.rstrip("/")
        return start + ("//" if start.endswith(":") else "") + path[len(within) :] + mark + rest


def _matching(place: _Place, paths: Iterable[str], wanted: Callable[[str], bool]) -> Iterator[str]:
    for path in paths:
        if place.system.isdir(path):
            yield from _walk(place, _entries(place.system, path), wanted)
        elif wanted(path):
            yield place.url_of(path)


def _walk(place: _Place, first: Iterator[tuple[str, bool]], wanted: Callable[[str], bool]) -> Iterator[str]:
    levels = [first]
    while levels:
        for path, is_folder in levels[-1]:
            if not is_folder:
                if wanted(path):
                    yield place.url_of(path)
                continue
            try:
                levels.append(_entries(place.system, path))
                break
            except Exception:  # as above
                yield place.url_of(path)
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
    try:
        from fsspec.core import url_to_fs  # needs an extra
    except ModuleNotFoundError:
        raise MissingExtraError("fsspec", "remote") from None
    try:
        return url_to_fs(url)
    except ImportError as fault:  # of a package for systems of that kind
        raise UsageError(f"{url}: {_told(fault)}") from None


def _told(fault: Exception) -> str:
    return f"{fault}".strip().partition("\n")[0] or type(fault).__name__
