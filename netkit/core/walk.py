"""Walk local or remote folders in sorted order. Folders are listed only when they are reached."""

import os
from collections.abc import Callable, Iterable, Iterator

Entry = tuple[str, bool]  # path, whether it is a folder to walk


def list_folder(folder: str, *, skip_hidden: bool = False) -> Iterator[Entry]:
    """List a local folder, sorted by name; "" is the current folder. Symbolic links to folders count as files.

    Raises OSError, when called rather than when iterated over, if the folder cannot be listed.
    """
    with os.scandir(folder or os.curdir) as entries:
        names = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not (skip_hidden and entry.name.startswith("."))
        )
    prefix = os.path.join(folder, "")
    return ((prefix + name, is_folder) for name, is_folder in names)


def walk(entries: Iterable[Entry], list_folder: Callable[[str], Iterable[Entry]] = list_folder) -> Iterator[str]:
    """Yield the files in `entries` and, for each folder in `entries`, the files in it and in its subfolders.

    `list_folder` lists one folder. A folder for which it raises an exception is itself yielded, like a file.
    """
    levels = [iter(entries)]  # not recursive, because folders can be nested more deeply than Python's stack allows
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                try:
                    levels.append(iter(list_folder(path)))
                    break
                except Exception:  # each remote file system has its own exceptions
                    pass
            yield path
        else:
            levels.pop()
