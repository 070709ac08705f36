"""Atomic file writes and file locks. Standard library only."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from netkit.core.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# O_NONBLOCK: without it, opening a pipe that has no writer blocks
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
RANDOM_BYTES = 8  # in the name of a temporary file
STALE_AFTER_S = 3600  # a temporary file without a write for this long is assumed to belong to a killed process


def require_writable(path: Path) -> None:
    """Raise UsageError if no file can be written at `path`.

    Its folder is missing or not writable, or it is a folder or a device itself.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: the folder {path.parent} is not writable; pass another one with --out")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; pass the name of a file with --out")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file and cannot be replaced; pass another one with --out")


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block succeeds and is deleted when it raises.

    The bytes go to a temporary file in the same folder, which is then synced and renamed, and the folder is synced.
    Thus a file at `path` is always complete, even after a crash. A killed process leaves its temporary file behind;
    later writers of `path`, on any machine, delete it once it is stale.

    Raises UsageError as `require_writable` does, and OSError if the folder is not writable or the disk is full.
    """
    require_writable(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(RANDOM_BYTES)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _try_lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            written_at = os.fstat(file.fileno()).st_mtime
        os.replace(temporary, path)
    except BaseException as exc:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(exc, OSError) and exc.filename in (None, str(temporary)):
            raise OSError(exc.errno, exc.strerror, str(path)) from None  # name the file that the user knows
        raise
    _delete_stale(path, written_at)
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, as `open_atomic` does."""
    with open_atomic(path) as file:
        file.write(content)


def lock_file(fd: int, path: Path) -> None:
    """Lock an open file or folder for this process until its file descriptor `fd` is closed.

    Does nothing where the operating system or the file system has no locks. Raises UsageError, which names `path`, if
    another process holds the lock.
    """
    if not _try_lock(fd):
        raise UsageError(f"{path}: in use by another run; wait for it to end, or pass another --out")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process while the block runs, as `lock_file` does."""
    if fcntl is None:  # Windows cannot open folders
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        lock_file(fd, folder)
        yield
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to the disk."""
    if os.name == "nt":  # Windows cannot open folders
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    """Take the lock on an open file; return False if another process holds it.

    Returns True where the operating system or the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        pass
    return True


def _delete_stale(path: Path, now: float) -> None:
    """Delete the temporary files that killed writers of `path` left behind.

    `now` is a modification time that the file system set, because its clock may differ from this machine's. Process IDs
    would not identify writers on other machines or in other containers.
    """
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * RANDOM_BYTES}}}\.tmp")
    with suppress(OSError):  # a folder may be writable but not listable
        for name in filter(temporary.fullmatch, os.listdir(path.parent)):
            if _is_stale(path.with_name(name), now):
                os.unlink(path.with_name(name))


def _is_stale(temporary: Path, now: float) -> bool:
    with suppress(OSError), open(temporary, "r+b") as file:
        return now - os.fstat(file.fileno()).st_mtime > STALE_AFTER_S and _try_lock(file.fileno())
    return False
