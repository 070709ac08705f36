"""Inspect image files: decode each one once, to get its hash, its size and whether it is grey.

Unreadable files are named and skipped, up to a share of all files.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from netkit.core.errors import DataError, ImageError
from netkit.core.system import usable_cores
from netkit.data.image_entry import ImageEntry
from netkit.images.decoder import Decoder

logger = logging.getLogger(__name__)

MIN_UNREADABLE = 5  # files that are skipped in a data set of any size
MAX_LISTED, MAX_MISSING_LISTED = 10, 3  # files in messages: one a line, and in one line


class Problem(NamedTuple):
    """Why a file cannot be read. `missing` says that it does not exist."""

    path: str
    message: str
    missing: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def readable(
    source: Path, parts: Sequence[Sequence[ImageEntry]], decoder: Decoder, *, max_unreadable: float, quiet: bool
) -> tuple[list[ImageEntry], ...]:
    """Inspect the files of all parts; return those that `decoder` can decode, in an order that mixes the classes.

    The others are logged, unless `quiet`.
    Raises DataError, which names `source`, if more than the share `max_unreadable` of the files, and more than
    MIN_UNREADABLE files, cannot be read. With a share of 0, no file may be unreadable.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = [list(pool.map(partial(_inspect, decoder=decoder), part)) for part in parts]
    problems = [result for part in results for result in part if isinstance(result, Problem)]
    if not quiet:
        log_problems(str(source), problems)
    total = sum(map(len, parts))
    limit = max(MIN_UNREADABLE, int(max_unreadable * total)) if max_unreadable else 0
    if len(problems) > limit:
        enough = min(100, 100 * len(problems) // total + 1) / 100
        raise DataError(
            f"{source}: {len(problems):,} of {total:,} images cannot be read, over the limit of {limit:,}; "
            f"the first is {problems[0]}; repair or remove them, or pass --max-unreadable {enough:g}"
        )
    entries = ([result for result in part if isinstance(result, ImageEntry)] for part in results)
    return tuple([part[i] for i in np.random.default_rng(0).permutation(len(part))] for part in entries)


def _inspect(entry: ImageEntry, *, decoder: Decoder) -> ImageEntry | Problem:
    """Return the entry with hash, size and color set, or why the file cannot be decoded."""
    try:
        content = decoder.read(entry.path)
        grey, size = decoder.grey_and_size(content)
    except ImageError as exc:
        message = "a folder, which cannot be read as an image" if os.path.isdir(entry.path) else str(exc)
        return Problem(entry.path, message, exc.code == "not-found")
    return replace(entry, sha256=hashlib.sha256(content).digest(), grey=grey, size=size)


def log_problems(source: str, problems: Sequence[Problem]) -> None:
    """Log files that cannot be read: missing ones in one line, which begins with `source`, and others in one each."""
    missing = [problem.path for problem in problems if problem.missing]
    if missing:
        more = ", ..." if len(missing) > MAX_MISSING_LISTED else ""
        paths = ", ".join(missing[:MAX_MISSING_LISTED]) + more
        files = "1 file does" if len(missing) == 1 else f"{len(missing):,} files do"
        logger.warning("%s: %s not exist: %s", source, files, paths)
    others = [problem for problem in problems if not problem.missing]
    for problem in others[:MAX_LISTED]:
        logger.warning("skipped %s", problem)
    if len(others) > MAX_LISTED:
        logger.warning("skipped %s more files that cannot be read", f"{len(others) - MAX_LISTED:,}")
