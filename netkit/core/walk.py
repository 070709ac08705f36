"""Walk local or remote folders in sorted order. Folders are listed only when they are reached."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

Entry = tuple[str, bool]  # path, whether it is a folder to walk

# folders of macOS archives, Synology thumbnails, ext4 and Windows, in lower case -> as their systems write them
SYSTEM_NAMES = {
    name.lower(): name for name in ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
}


def is_skipped(name: str) -> bool:
    """Whether walks skip a file or folder with this name: a hidden name, or a folder of the system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def list_folder(folder: str) -> Iterator[Entry]:
    """List a local folder, sorted by name; "" is the current folder. A symbolic link to a folder counts as a folder.

    Raises OSError, when called rather than when iterated over, if the folder cannot be listed.
    """
    with os.scandir(folder or os.curdir) as entries:
        names = sorted((entry.name, _is_folder(entry)) for entry in entries)
    prefix = os.path.join(folder, "")
    return ((prefix + name, is_folder) for name, is_folder in names)


def walk(
    entries: Iterable[Entry],
    list_folder: Callable[[str], Iterable[Entry]] = list_folder,
    *,
    identify: Callable[[str], object] | None = None,
    with_folders: bool = False,
) -> Iterator[str]:
    """Yield the files in `entries` and, for each folder in `entries`, the files in it and in its subfolders.

    `list_folder` lists one folder. A folder for which it raises an exception is itself yielded, like a file. A folder
    is not entered inside itself, where a symbolic link leads back to it or to a folder around `entries`. `identify`
    returns what distinguishes a folder from others; the default, device and inode, is for local folders.
    `with_folders` also yields each folder, before its content.
    """
    levels = [iter(entries)]  # not recursive, because folders can be nested more deeply than Python's stack allows
    ancestors: list[object] = []  # the identities of the folders that the levels above the first list
    around: set[object] = set()  # the identities of the folders around the first of these
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                try:
                    identity = (identify or _device_and_inode)(path)
                    if not ancestors:
                        around = set() if identify else _folders_around(path)
                    if identity in ancestors or identity in around:
                        continue
                    levels.append(iter(list_folder(path)))
                except Exception:  # each remote file system has its own exceptions
                    pass
                else:
                    ancestors.append(identity)
                    if with_folders:
                        yield path
                    break
            yield path
        else:
            levels.pop()
            del ancestors[len(levels) - 1 :]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _folders_around(folder: str) -> set[object]:
    around: set[object] = set()
    for parent in Path(os.path.abspath(folder)).parents:
        with suppress(OSError):
            around.add(_device_and_inode(str(parent)))
    return around


def _device_and_inode(folder: str) -> tuple[int, int]:
    status = os.stat(folder or os.curdir)
    return status.st_dev, status.st_ino
