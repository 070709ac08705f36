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

# O_NONBLOCK: opening a pipe that has no writer must not wait
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
RANDOM_BYTES = 8  # in the name of a temporary file
STALE_AFTER_S = 3600  # a temporary file that nobody has written to for so long belongs to a writer that was killed


def require_writable(path: Path) -> None:
    """Raise UsageError if no file can be written at `path`: its folder is missing, or it is a folder or a device."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path}: a folder, not a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a regular file, which a result could replace")


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block succeeds and is deleted when it raises.

    The bytes go to a temporary file in the same folder, which is then synced and renamed, and the folder is synced. So
    a file called `path` is always complete, even after a crash. A killed process leaves its temporary file behind;
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
            raise OSError(exc.errno, exc.strerror, str(path)) from None  # the user does not know the temporary name
        raise
    _delete_stale(path, written_at)
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, as `open_atomic` does."""
    with open_atomic(path) as file:
        file.write(content)


def lock_file(handle: int, path: Path) -> None:
    """Lock the open file or folder `handle` for this process until it is closed.

    Raises UsageError, which names `path`, if another process holds the lock. Does nothing where the operating system
    or the file system has no locks.
    """
    if not _try_lock(handle):
        raise UsageError(f"{path}: another run is writing it")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process while the block runs, as `lock_file` does."""
    if fcntl is None:  # Windows cannot open folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock_file(handle, folder)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Write the directory entries of `folder` to the disk."""
    if os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Whether no other process holds the lock on the open file; takes it where the file system has locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        pass
    return True


def _delete_stale(path: Path, now: float) -> None:
    """Delete the temporary files that killed writers of `path` left behind.

    `now` is a modification time that the file system set: its clock may differ from this machine's. PIDs would tell
    nothing about writers on other machines or in other containers.
    """
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * RANDOM_BYTES}}}\.tmp")
    with suppress(OSError):  # a folder may be writable and not listable
        for name in filter(temporary.fullmatch, os.listdir(path.parent)):
            if _is_stale(path.with_name(name), now):
                os.unlink(path.with_name(name))


def _is_stale(temporary: Path, now: float) -> bool:
    with suppress(OSError), open(temporary, "r+b") as file:
        return now - os.fstat(file.fileno()).st_mtime > STALE_AFTER_S and _try_lock(file.fileno())
    return False
