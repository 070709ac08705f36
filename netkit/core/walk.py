"""Walk over local or remote folders, in sorted order, with the names of one folder at a time in memory."""

import os
from collections.abc import Callable, Iterable, Iterator

Entry = tuple[str, bool]  # a path, and whether it is a folder to walk


def list_folder(folder: str, *, skip_hidden: bool = False) -> Iterator[Entry]:
    """List a local folder, sorted by name; "" is the current folder. Symbolic links to folders are not walked.

    Raises OSError, when it is called, if the folder cannot be listed.
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
    """Yield the files among `entries`, and for each folder among them the files in it and in its subfolders.

    `list_folder` lists one folder. A folder for which it raises an exception is yielded itself, like a file.
    """
    levels = [iter(entries)]  # not recursive: folders nest deeper than Python's stack
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                try:
                    levels.append(iter(list_folder(path)))
                    break
                except Exception:  # each remote file system raises its own kind
                    pass
            yield path
        else:
            levels.pop()
