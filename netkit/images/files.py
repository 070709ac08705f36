"""Which files count as images, and how to find them in a folder. Training and inference use the same rules."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

from PIL import features

from netkit.core.walk import SYSTEM_NAMES, Entry, is_skipped, list_folder, walk

# by the feature of Pillow that decodes them
OPTIONAL_SUFFIXES = {"avif": (".avif",), "jpg_2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c")}
SUFFIXES = (  # in upper or lower case
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
    *(suffix for feature, suffixes in OPTIONAL_SUFFIXES.items() if features.check(feature) for suffix in suffixes),
)
OTHER_SUFFIX = re.compile(r"\.\w{1,10}$")  # in a message
MAX_REASONS_LISTED = 10  # in a message


def is_image_name(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


class Skipped:
    """Counts what walks of folders skip, by reason: hidden images and folders, system folders, other suffixes."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()  # by reason; "{s}" stands for the plural

    def select(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Select the images and the folders to walk, and count the rest.

        A folder that is named like an image counts as an image, so that the decoder reports it.
        """
        for path, is_folder in entries:
            if not self.skips(path, is_folder=is_folder):
                yield path, not is_image_name(path)

    def skips(self, path: str, *, is_folder: bool) -> bool:
        """Return whether walks skip this file or folder, and count it, except hidden files not named like images."""
        name = os.path.basename(path.rstrip("/"))
        lower = name.lower()
        if is_skipped(name):
            if is_folder:
                self.add(f"folder{{s}} {SYSTEM_NAMES[lower]}" if lower in SYSTEM_NAMES else "hidden folder{s}")
            elif is_image_name(name):
                self.add("hidden image file{s}")
        elif not is_folder and not is_image_name(name):
            suffix = OTHER_SUFFIX.search(lower)
            self.add(f"{suffix[0]} file{{s}} (format not supported)" if suffix else "file{s} without a usual suffix")
        else:
            return False
        return True

    def add(self, reason: str) -> None:
        self._counts[reason] += 1

    def update(self, other: "Skipped") -> None:
        self._counts.update(other._counts)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """Return one line, such as "skipped 12 .heic files (format not supported), 1 folder @eaDir"."""
        listed = self._counts.most_common(MAX_REASONS_LISTED)
        parts = [f"{n:,} {reason.format(s='s' if n > 1 else '')}" for reason, n in listed]
        if others := self._counts.total() - sum(n for _, n in listed):
            parts.append(f"{others:,} of other kinds")
        return f"skipped {', '.join(parts)}"


def find_images(folder: str, skipped: Skipped | None = None) -> Iterator[str]:
    """Yield the paths of everything named like an image in `folder` and its subfolders, in sorted order.

    Symbolic links to folders are followed. Two kinds of folders are yielded too, so that the decoder reports them:
    those that are named like an image and those that cannot be listed. Names for which `is_skipped` is true are counted
    in `skipped`.
    """
    return walk([(folder, True)], partial(_images_and_folders, skipped=Skipped() if skipped is None else skipped))


def _images_and_folders(folder: str, *, skipped: Skipped) -> Iterator[Entry]:
    return skipped.select(list_folder(folder))  # list_folder raises OSError here, not when iterated over
