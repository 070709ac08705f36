"""Read files and list folders at URLs such as s3://bucket/images with fsspec (netkit's extra [remote])."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes

from netkit.core.errors import ImageError, MissingExtraError, NetkitError, UsageError, first_line
from netkit.core.walk import Entry, is_skipped, walk

CHAIN = "::"  # separates the parts of a chained URL: zip://a.png::s3://bucket/all.zip is a.png in that archive
GLOB_CHARACTERS = frozenset("*?[")
FILE_URL = re.compile(r"file://(?:localhost)?(?=/)", re.IGNORECASE)  # the part before the path
MIN_CONCURRENT_READS = 16  # network round trips take most of the time, whatever the number of cores


def is_remote(path: str) -> bool:
    """Whether `path` is a URL."""
    return "://" in path


def local_path(path: str) -> str:
    """Return the path that a file:// URL names, which may also be a glob pattern. Return any other path unchanged.

    Percent escapes, such as %20 for a space, are decoded unless only the path as it is written exists.
    """
    if not (start := FILE_URL.match(path)) or CHAIN in path:
        return path
    written = path[start.end() :]
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(written)))
    for candidate in (decoded, written):
        folder = folder_above_pattern(candidate)
        if os.path.lexists(candidate) or (GLOB_CHARACTERS & {*candidate} and os.path.lexists(folder)):
            return candidate
    return decoded


def read(url: str, *, max_bytes: int) -> bytes:
    """Return the content of a file of 1 to `max_bytes` bytes.

    Raises ImageError if the file cannot be read or has another size; MissingExtraError or UsageError if a package that
    the URL needs is not installed.
    """
    try:
        filesystem, path = _filesystem(url)
        size = filesystem.info(path)["size"]
        if size is not None and size > max_bytes:
            raise ImageError("too-large", f"{size:,} bytes, over the limit of {max_bytes:,}; raise --max-bytes")
        # object stores reject requests for an empty range
        content = b"" if size == 0 else _read_start(filesystem, path, max_bytes + 1)
    except FileNotFoundError:
        raise ImageError("not-found", "no such file") from None
    except NetkitError:
        raise
    except Exception as exc:  # each file system has its own exceptions
        raise ImageError("unreadable", f"cannot be read: {first_line(exc)}") from None
    if len(content) > max_bytes:
        raise ImageError("too-large", f"over {max_bytes:,} bytes, the limit; raise --max-bytes")
    if not content:
        raise ImageError("not-an-image", "the file is empty")
    return content


def open_file(url: str) -> Any:
    """Open a file for reading with random access.

    Raises UsageError if it cannot be read; MissingExtraError, a subclass, if fsspec is not installed.
    """
    with _usage_error(url, "cannot be read"):
        filesystem, path = _filesystem(url)
        return filesystem.open(path)


def find(url: str, *, select: Callable[[Iterable[Entry]], Iterable[Entry]]) -> Iterator[str]:
    """Yield the URLs of the files at `url`, which is a folder, a glob pattern or a file, in sorted order.

    `select` selects the files and subfolders of a folder, and those that match a pattern. A pattern matches names that
    walks skip only if it names them. Folders are listed only when they are reached; a subfolder that cannot be listed
    is itself yielded. URLs keep the host and the chain of `url`.
    Raises UsageError, before the first URL, if `url` cannot be listed; MissingExtraError if fsspec is not installed.
    """

    def list_folder(folder: str) -> Iterable[Entry]:
        infos = filesystem.ls(folder, detail=True)
        entries = sorted((info["name"], info["type"] == "directory") for info in infos)
        marker = folder.rstrip("/")  # object stores list a marker object of the folder among its entries
        return select((path, is_folder) for path, is_folder in entries if path.rstrip("/") != marker)

    with _usage_error(url, "cannot be listed"):
        filesystem, path = _filesystem(url)
        if filesystem.isdir(path):
            root, root_path = url, path
            entries: Iterator[Entry] = iter(list_folder(path))
        elif not GLOB_CHARACTERS & set(path) or filesystem.exists(path):
            return iter([url])
        else:
            root = folder_above_pattern(url)
            root_path = _filesystem(root)[1]
            entries = iter(select(_matches(filesystem, path)))
    return (_url_of(path, root, root_path) for path in walk(entries, list_folder, identify=str))


def folder_above_pattern(pattern: str) -> str:
    """Return the deepest folder (path or URL) that contains all matches of a glob pattern; "" is the current one."""
    names, chain, archive = pattern.partition(CHAIN) if is_remote(pattern) else (pattern, "", "")
    start = re.split(r"[*?[]", names)[0]
    return start[: start.rfind("/") + 1] + chain + archive


def _read_start(filesystem: Any, path: str, max_bytes: int) -> bytes:
    from fsspec.implementations.arrow import ArrowFSWrapper  # needs an extra

    # by default Arrow's file systems, such as Hadoop's, open streams that do not support seeking
    options = {"seekable": True} if isinstance(filesystem, ArrowFSWrapper) else {}
    content: bytes = filesystem.cat_file(path, start=0, end=max_bytes, **options)
    return content


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs  # needs an extra
    except ModuleNotFoundError:
        raise MissingExtraError("fsspec", "remote") from None
    try:
        return url_to_fs(url)
    except ImportError as exc:  # the package for this URL scheme is missing
        package = re.search(r"nstall (\S+) to", str(exc))
        need = (
            f"the package {package[1]}; run: pip install {package[1]}" if package else f"a package: {first_line(exc)}"
        )
        raise UsageError(f"{url}: reading this URL needs {need}") from None


@contextmanager
def _usage_error(url: str, problem: str) -> Iterator[None]:
    """Raise UsageError for any exception in the block that is not netkit's own."""
    try:
        yield
    except NetkitError:
        raise
    except Exception as exc:  # each file system has its own exceptions
        raise UsageError(f"{url}: {problem}: {first_line(exc)}") from None


def _matches(filesystem: Any, pattern: str) -> Iterator[Entry]:
    """Expand a glob pattern in sorted order, without what is in a folder that matches, too."""
    infos = filesystem.glob(pattern, detail=True)
    is_folder = {path.rstrip("/"): infos[path]["type"] == "directory" for path in infos if _is_matched(path, pattern)}
    for path in sorted(is_folder):
        if not any(is_folder.get(str(parent)) for parent in PurePosixPath(path).parents):
            yield path, is_folder[path]


def _is_matched(path: str, pattern: str) -> bool:
    """Whether the names in `path` that walks skip are also in `pattern`, up to its first special character."""
    stems = {re.split(r"[*?[]", part)[0] for part in pattern.split("/")} - {""}
    return all(name.startswith(tuple(stems)) for name in path.split("/") if is_skipped(name))


def _url_of(path: str, root: str, root_path: str) -> str:
    """Return the URL of a path in the folder whose URL is `root` and whose path is `root_path`."""
    prefix = root_path.rstrip("/")
    if prefix and not path.startswith(f"{prefix}/"):
        raise UsageError(f"{root}: the listing contains {path}, which is outside this folder")
    folder, chain, archive = root.partition(CHAIN)
    folder = folder.rstrip("/")
    return folder + ("//" if folder.endswith(":") else "") + path.removeprefix(prefix) + chain + archive
