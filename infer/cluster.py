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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
OURS = re.compile(rf"{NAME}|\.{NAME}\.\d+\.tmp")  # a file of a run, or one that its writer was killed at
LARGEST = 1000  # inputs of a shard: a second of work for a core, or a tenth of one
SHARES = 100  # of the work, at least, for each worker: one that is killed costs as little

Engine = Callable[[Plan, Sequence[Shard]], Iterator[Made]]


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
    with _folder(plan.folder):
        size = _begun(plan.folder, wanted, resume=resume) or max(1, min(LARGEST, len(listed) // (SHARES * workers)))
        starts = range(0, len(listed), size)
        shards = [Shard(number, tuple(listed[start : start + size])) for number, start in enumerate(starts)]
        manifest = {**wanted, "shard size": size, "shards": len(shards)}
        _write(plan.folder / MANIFEST, manifest)
        if not (plan.folder / MODEL).exists():
            files.write_whole(plan.folder / MODEL, model.content)
        before, made = _made(plan, shards, engine, advance)
        tally = _counted(made)
        if tally.count != len(listed):
            raise ModelError(f"{plan.folder}: {tally.count:,} rows of {len(listed):,} inputs: go on with --resume")
        providers = sorted({each.provider for each in made})
        _write(plan.folder / MANIFEST, {**manifest, "rows": tally.counts(), "providers": providers})
        files.write_whole(plan.folder / SUCCESS, b"")
    return Outcome(tally, (tally.count - before) / (time.monotonic() - started), ", ".join(providers))


def _made(
    plan: Plan, shards: Sequence[Shard], engine: Engine, advance: Callable[[int, str], None]
) -> tuple[int, list[Made]]:
    """All that the engine made, after what was there; of this how many rows there were."""
    made = [found for shard in shards if (found := plan.done(shard))]
    kept = {each.number for each in made}
    before = sum(each.rows for each in made)
    advance(before, "")
    try:
        for each in engine(plan, [shard for shard in shards if shard.number not in kept]):
            if each.fault:
                raise ModelError(each.fault)
            made.append(each)
            advance(each.rows, "")
    except BaseException:
        kept_of_all = f"{len(made):,} of {len(shards):,}"
        logger.info("%s: %s shards are kept; go on with --resume", plan.folder, kept_of_all)
        raise
    return before, made


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
    """The size of shards of the run to go on with; None where one begins, in a folder that is empty then."""
    if resume and (folder / MANIFEST).exists():
        manifest = _read(folder / MANIFEST)
        require_same(folder, manifest, wanted)
        return int(manifest["shard size"])
    if (folder / MANIFEST).exists():
        logger.info("%s: starting anew, in place of the run that is there", folder)
    for name in sorted(os.listdir(folder)):  # the manifest and the mark first: parts alone are nobody's result
        (folder / name).unlink(missing_ok=True)
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


def _counted(made: Iterable[Made]) -> Tally:
    tally = Tally(frozenset())
    for each in made:
        for name, count in each.counts.items():
            setattr(tally, name, getattr(tally, name) + count)
    return tally
