"""How a file gets its final name: whole, or not at all. Standard library only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from netkit.core.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# without waiting, so that a pipe without a writer cannot hang the run
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def refuse(path: Path) -> None:
    """Raise UsageError where no file `path` can be written: it has no folder, or is itself a folder or a device."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path}: a folder, not a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a regular file, which a result could replace")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` when the block ends well and vanishes when it does not.

    The bytes go to a temporary file in the same folder; then fsync, os.replace and fsync of the folder, so that a
    file with its final name is whole, after a crash too. Raises UsageError as `refuse` does, OSError where the folder
    cannot be written or the disk is full.
    """
    refuse(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as fault:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(fault, OSError) and fault.filename in (None, str(temporary)):
            raise OSError(fault.errno, fault.strerror, str(path)) from None  # the name that the user knows
        raise
    _sweep(path)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` under the name `path`, whole or not at all."""
    with written_whole(path) as file:
        file.write(content)


def claim(handle: int, path: Path) -> None:
    """Keep the open file, or folder, at `path` for this process alone until it is closed.

    Raises UsageError where another run keeps it. Where the system has no such locks nothing is kept.
    """
    if fcntl:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path}: another run is writing it") from None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Inside, the folder is kept for this process alone, as `claim` does it."""
    if fcntl is None:  # Windows opens no folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        claim(handle, folder)
        yield
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove the temporary files that writers of `path` left when they were killed."""
    if os.name == "nt":  # there os.kill ends a process even with signal 0
        return
    start, end = f".{path.name}.", ".tmp"
    with suppress(OSError):  # a folder may take files and not be listed
        for name in os.listdir(path.parent):
            writer = name.removeprefix(start).removesuffix(end)
            if name == f"{start}{writer}{end}" and writer.isdecimal() and not _lives(int(writer)):
                os.unlink(path.with_name(name))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk."""
    if os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
