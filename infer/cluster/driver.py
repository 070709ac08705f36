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
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from netkit.core import atomic_io, schema
from netkit.core.errors import ModelError, UsageError
from netkit.core.progress import Advance
from netkit.infer.cluster.shards import MODEL, Made, Plan, Shard
from netkit.infer.job import Outcome
from netkit.infer.model.onnx_file import Model
from netkit.infer.output.prediction import Counts
from netkit.infer.output.results_file import require_same
from netkit.infer.pipeline.brightness import BrightnessCheck

logger = logging.getLogger(__name__)

MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
PATHS = "paths' SHA-256"  # in the manifest
NAME = r"(part-\d{5,}\.parquet|_manifest\.json|_model\.onnx|_SUCCESS)"
OURS = re.compile(rf"{NAME}|\.{NAME}\.([0-9a-f]{{16}}\.tmp|tries)")  # a file of a run, or what a worker was killed at
LARGEST = 1000  # inputs of a shard: a second of work for a core, or a tenth of one
SHARES = 100  # of the work, at least, for each worker: one that is killed costs as little

Work = Callable[[Sequence[Shard]], Generator[Made]]
Engine = Callable[[Plan], AbstractContextManager[Work]]  # what runs its workers is there while the block lasts


def run(
    plan: Plan,
    model: Model,
    inputs: Sequence[str],
    paths: Iterable[str],
    engine: Engine,
    *,
    workers: int,
    resume: bool,
    advance: Advance,
) -> Outcome:
    """Make the rows of all `paths`, which `inputs` stand for, by the plan's model and an engine.

    Tells `advance` of rows as they are made. Raises UsageError where the folder holds something else, another run is
    writing it, or the run to go on with was of other inputs or settings; ModelError where the model fails.
    """
    started = time.monotonic()
    listed = list(paths)
    wanted = {"inputs": list(inputs), "count": len(listed), PATHS: _hash_of(listed), **plan.settings}
    with _folder(plan.folder):
        kept = _size_there(plan.folder, wanted, resume=resume)
        size = kept or max(1, min(LARGEST, len(listed) // (SHARES * workers)))
        starts = range(0, len(listed), size)
        shards = [Shard(number, tuple(listed[start : start + size])) for number, start in enumerate(starts)]
        manifest = {**wanted, "shard size": size, "shards": len(shards)}
        there = {made.number: made for shard in shards if (made := plan.done(shard))} if kept else {}
        missing = [shard for shard in shards if shard.number not in there]
        before = sum(made.rows for made in there.values())
        advance(before, "")
        if kept and not missing and (plan.folder / SUCCESS).exists():
            logger.info("%s: this run has ended: nothing is left to do", plan.folder)
            return Outcome(_counted(there.values())[0], 0, "")
        if kept:
            (plan.folder / SUCCESS).unlink(missing_ok=True)  # of a run that had ended, and has lost a part
        with engine(plan) if missing else nullcontext() as work:
            if not kept:
                _clear(plan.folder)
            _begin(plan.folder, model, manifest, missing)
            if work:
                brightness = BrightnessCheck(card=model.card, inverted=plan.decoder.invert)
                _make(plan.folder, missing, len(shards), work, brightness, advance)
        counts, providers = _counted(_all(plan, shards))
        _write(plan.folder / MANIFEST, {**manifest, "rows": counts.as_dict(), "providers": providers})
        atomic_io.write_atomic(plan.folder / SUCCESS, b"")
    return Outcome(counts, (counts.total - before) / (time.monotonic() - started), ", ".join(providers))


def _begin(folder: Path, model: Model, manifest: Mapping[str, Any], missing: Sequence[Shard]) -> None:
    """Let all be there that workers need."""
    for shard in missing:
        (folder / shard.tries).unlink(missing_ok=True)
    _write(folder / MANIFEST, manifest)
    if not (folder / MODEL).exists():
        atomic_io.write_atomic(folder / MODEL, model.content)


def _make(
    folder: Path,
    missing: Sequence[Shard],
    count: int,
    work: Work,
    brightness: BrightnessCheck,
    advance: Advance,
) -> None:
    """Let those be made that are missing of so many."""
    left = {shard.number for shard in missing}
    try:
        with closing(work(missing)) as done:
            for made in done:
                if made.fault:
                    raise ModelError(made.fault)
                left.discard(made.number)
                brightness.update(made.counts["ok"], made.level)
                advance(made.rows, "")
        brightness.finish()
    except BaseException:
        logger.info("%s: %s shards are kept; go on with --resume", folder, f"{count - len(left):,} of {count:,}")
        raise


def _all(plan: Plan, shards: Iterable[Shard]) -> Iterator[Made]:
    """What the files are that lie there. Raises ModelError where one does not."""
    for shard in shards:
        made = plan.done(shard)
        if made is None:
            raise ModelError(f"{plan.folder / shard.name}: is not there, or is another run's; go on with --resume")
        yield made


def _counted(parts: Iterable[Made]) -> tuple[Counts, list[str]]:
    """The counts of all of them, and what ran them."""
    counts, providers = Counts(), set()
    for made in parts:
        providers.add(made.provider)
        for name, count in made.counts.items():
            setattr(counts, name, getattr(counts, name) + count)
    return counts, sorted(providers)


def _hash_of(paths: Iterable[str]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(os.fsencode(path + "\0"))
    return found.hexdigest()


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this run alone."""
    if not folder.is_dir():
        atomic_io.require_writable(folder)
        folder.mkdir()
    with atomic_io.locked_folder(folder):
        other = next((name for name in sorted(os.listdir(folder)) if not OURS.fullmatch(name)), None)
        if other:
            raise UsageError(f"{folder}: holds {other}, which is no part of a run; name a folder of its own with --out")
        yield


def _size_there(folder: Path, wanted: Mapping[str, Any], *, resume: bool) -> int | None:
    """The size of shards of the run to go on with; None where one begins.

    A run that is there is known by its manifest, which stays until there is another. Raises UsageError where it was of
    other inputs or settings, or has none.
    """
    names = sorted(os.listdir(folder))
    if MANIFEST not in names:
        if parts := [name for name in names if not name.startswith(".")]:
            raise UsageError(f"{folder}: holds {parts[0]} and no {MANIFEST}: nobody knows whose; name another folder")
        return None
    if not resume:
        return None
    manifest = _read(folder / MANIFEST)
    if any(manifest.get(name) != wanted[name] for name in ("count", PATHS)):
        raise UsageError(
            f"{folder}: this run was started with other inputs: {manifest.get('count')} files, not these "
            f"{wanted['count']}; go on with the same, or leave out --resume to start anew"
        )
    require_same(folder, manifest, wanted)
    return manifest["shard size"]


def _clear(folder: Path) -> None:
    """Of a run that is there, leave the manifest."""
    names = sorted(os.listdir(folder))  # first the mark: parts alone are nobody's result
    if MANIFEST in names:
        logger.info("%s: starting anew, in place of the run that is there", folder)
    for name in names:
        if name != MANIFEST:
            (folder / name).unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = schema.parse(path.read_bytes(), what=str(path), error=UsageError)
        return {**manifest, "shard size": int(manifest["shard size"])}
    except (UsageError, KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: cannot be read; leave out --resume to start anew") from None


def _write(path: Path, manifest: Mapping[str, Any]) -> None:
    atomic_io.write_atomic(path, (json.dumps(manifest, indent=1) + "\n").encode())
