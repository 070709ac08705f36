"""Cluster: one run over many inputs as numbered Parquet files in a folder, made by workers that all see that folder.

`_manifest.json` says what the run is of, before its first part, and what came of it, after the last; `_model.onnx` is
the model that all workers read; `_SUCCESS` comes after all else. A part takes its name when it is whole, and says what
it was made of: who goes on leaves it as it is.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from infer.job import Outcome
from infer.model import Model
from infer.results import require_same
from infer.rows import Tally
from infer.shards import MODEL, Made, Plan, Shard
from nets import files
from nets.errors import ModelError, UsageError

logger = logging.getLogger(__name__)

MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
NAME = r"(part-\d{5,}\.parquet|_manifest\.json|_model\.onnx|_SUCCESS)"
OURS = re.compile(rf"{NAME}|\.{NAME}\.(\d+\.tmp|tries)")  # a file of a run, or what a worker was killed at
LARGEST = 1000  # inputs of a shard: a second of work for a core, or a tenth of one
SHARES = 100  # of the work, at least, for each worker: one that is killed costs as little

Work = Callable[[Sequence[Shard]], Generator[Made]]
Engine = Callable[[Plan], AbstractContextManager[Work]]  # its workers are there while the block lasts


def run(
    plan: Plan,
    model: Model,
    inputs: Sequence[str],
    paths: Iterable[str],
    engine: Engine,
    *,
    workers: int,
    resume: bool,
    advance: Callable[[int, str], None],
) -> Outcome:
    """Make the rows of all `paths`, which `inputs` stand for, by the plan's model and an engine.

    Tells `advance` of rows as they are made. Raises UsageError where the folder holds something else, another run is
    writing it, or the run to go on with was of other inputs or settings; ModelError where the model fails.
    """
    started = time.monotonic()
    listed = list(paths)
    wanted = {"inputs": list(inputs), "count": len(listed), "sha256": _hash_of(listed), **plan.settings}
    with _folder(plan.folder), engine(plan) as work:
        size = _begun(plan.folder, wanted, resume=resume) or max(1, min(LARGEST, len(listed) // (SHARES * workers)))
        starts = range(0, len(listed), size)
        shards = [Shard(number, tuple(listed[start : start + size])) for number, start in enumerate(starts)]
        manifest = {**wanted, "shard size": size, "shards": len(shards)}
        _write(plan.folder / MANIFEST, manifest)
        if not (plan.folder / MODEL).exists():
            files.write_whole(plan.folder / MODEL, model.content)
        before = _make(plan, shards, work, advance)
        tally, providers = _counted(plan, shards)
        _write(plan.folder / MANIFEST, {**manifest, "rows": tally.counts(), "providers": providers})
        files.write_whole(plan.folder / SUCCESS, b"")
    return Outcome(tally, (tally.count - before) / (time.monotonic() - started), ", ".join(providers))


def _make(plan: Plan, shards: Sequence[Shard], work: Work, advance: Callable[[int, str], None]) -> int:
    """Let all be made that are not there; gives how many rows were."""
    there = [made for shard in shards if (made := plan.done(shard))]
    kept = {made.number for made in there}
    before = sum(made.rows for made in there)
    advance(before, "")
    for shard in shards:
        (plan.folder / shard.tries).unlink(missing_ok=True)
    try:
        with closing(work([shard for shard in shards if shard.number not in kept])) as done:
            for made in done:
                if made.fault:
                    raise ModelError(made.fault)
                kept.add(made.number)
                advance(made.rows, "")
    except BaseException:
        of_all = f"{len(kept):,} of {len(shards):,}"
        logger.info("%s: %s shards are kept; go on with --resume", plan.folder, of_all)
        raise
    return before


def _counted(plan: Plan, shards: Iterable[Shard]) -> tuple[Tally, list[str]]:
    """The counts of all parts, and what ran them, by the files that lie there. Raises ModelError where one does not."""
    tally, providers = Tally(frozenset()), set()
    for shard in shards:
        made = plan.done(shard)
        if made is None:
            raise ModelError(f"{plan.folder / shard.name}: is not there, or is another run's; go on with --resume")
        providers.add(made.provider)
        for name, count in made.counts.items():
            setattr(tally, name, getattr(tally, name) + count)
    return tally, sorted(providers)


def is_finished(folder: Path) -> bool:
    """Whether a run into it has ended."""
    return (folder / SUCCESS).exists()


def _hash_of(paths: Iterable[str]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(os.fsencode(path + "\0"))
    return found.hexdigest()


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this run alone."""
    if not folder.is_dir():
        files.refuse(folder)
        folder.mkdir()
    with files.claimed(folder):
        other = next((name for name in sorted(os.listdir(folder)) if not OURS.fullmatch(name)), None)
        if other:
            raise UsageError(f"{folder}: holds {other}, which is no part of a run; name a folder of its own with --out")
        yield


def _begun(folder: Path, wanted: Mapping[str, Any], *, resume: bool) -> int | None:
    """The size of shards of the run to go on with; None where one begins, of which no part is there then.

    A run that is there is known by its manifest, which stays until there is another.
    """
    names = sorted(os.listdir(folder))
    if MANIFEST not in names:
        if parts := [name for name in names if not name.startswith(".")]:
            raise UsageError(f"{folder}: holds {parts[0]} and no {MANIFEST}: nobody knows whose; name another folder")
    elif resume:
        manifest = _read(folder / MANIFEST)
        require_same(folder, manifest, wanted)
        return int(manifest["shard size"])
    else:
        logger.info("%s: starting anew, in place of the run that is there", folder)
    for name in names:  # first the mark: parts alone are nobody's result
        if name != MANIFEST:
            (folder / name).unlink()
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        int(found["shard size"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: cannot be read; leave out --resume to start anew") from None
    return found


def _write(path: Path, manifest: Mapping[str, Any]) -> None:
    files.write_whole(path, (json.dumps(manifest, indent=1) + "\n").encode())
