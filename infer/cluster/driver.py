"""The driver of a run on many workers, which write the rows of each shard to a Parquet file in one shared folder.

`_manifest.json` describes the run. It is written before the first shard, and again with the counts of all rows after
the last one. `_model.onnx` is the model that all workers read. `_SUCCESS` is written last. A shard's file appears when
it is complete, and its metadata identify the inputs, model and settings; a resumed run keeps those that match.
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
from netkit.infer.cluster.shards import MODEL_FILE, Plan, Shard, ShardResult
from netkit.infer.job import Outcome
from netkit.infer.model.onnx_file import Model
from netkit.infer.output.prediction import Counts
from netkit.infer.output.results_file import require_same
from netkit.infer.pipeline.brightness import BrightnessCheck

logger = logging.getLogger(__name__)

MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
PATHS_SHA256 = "paths' SHA-256"  # key of the manifest
_NAME = r"(part-\d{5,}\.parquet|_manifest\.json|_model\.onnx|_SUCCESS)"
RUN_FILE = re.compile(rf"{_NAME}|\.{_NAME}\.([0-9a-f]{{16}}\.tmp|tries)")  # the second form: temporary
MAX_SHARD_INPUTS = 1000  # 0.1 to 1 s of work for a core
MIN_SHARDS_PER_WORKER = 100  # if there are enough inputs: a killed worker loses 1 %

RunShards = Callable[[Sequence[Shard]], Generator[ShardResult]]  # yields results in any order
Engine = Callable[[Plan], AbstractContextManager[RunShards]]  # keeps the workers running while the block runs


def run(
    plan: Plan,
    model: Model,
    paths: Iterable[str],
    engine: Engine,
    *,
    workers: int,
    resume: bool,
    advance: Advance,
) -> Outcome:
    """Write a row for each of `paths`, the expanded `plan.inputs`, with the workers of `engine`.

    Calls `advance` with the number of rows since the last call, first with those of the earlier run. Raises UsageError
    if the folder contains other files, if another run is writing it, or if the run to resume had other inputs or
    settings; ModelError if the model fails.
    """
    started = time.monotonic()
    all_paths = list(paths)
    counted = {"count": len(all_paths), PATHS_SHA256: _hash_paths(all_paths)}
    arguments = {"inputs": list(plan.inputs), **counted, **plan.settings}
    with _locked_folder(plan.folder):
        resumed_size = _shard_size_to_resume(plan.folder, arguments, resume=resume)
        size = resumed_size or max(1, min(MAX_SHARD_INPUTS, len(all_paths) // (MIN_SHARDS_PER_WORKER * workers)))
        starts = range(0, len(all_paths), size)
        shards = [Shard(number, tuple(all_paths[start : start + size])) for number, start in enumerate(starts)]
        manifest = {**arguments, "shard size": size, "shards": len(shards)}
        stored = (plan.stored_result(shard) for shard in shards) if resumed_size else ()
        complete = {result.number: result for result in stored if result}
        missing = [shard for shard in shards if shard.number not in complete]
        rows_before = sum(result.rows for result in complete.values())
        advance(rows_before, "")
        if resumed_size and not missing and (plan.folder / SUCCESS).exists():
            logger.info("%s: this run is already complete", plan.folder)
            return Outcome(_sum_results(complete.values())[0])
        if resumed_size:
            (plan.folder / SUCCESS).unlink(missing_ok=True)  # of a complete run that has lost a shard since
        with engine(plan) if missing else nullcontext() as run_shards:
            if not resumed_size:
                _delete_earlier_run(plan.folder)
            _prepare_folder(plan.folder, model, manifest, missing)
            if run_shards:
                brightness = BrightnessCheck(card=model.card, inverted=plan.decoder.invert)
                _collect_results(plan.folder, missing, len(shards), run_shards, brightness, advance)
        counts, providers = _sum_results(_read_results(plan, shards))
        _write_manifest(plan.folder, {**manifest, "rows": counts.as_dict(), "providers": providers})
        atomic_io.write_atomic(plan.folder / SUCCESS, b"")
    return Outcome(counts, counts.total - rows_before, time.monotonic() - started, tuple(providers))


def _prepare_folder(folder: Path, model: Model, manifest: Mapping[str, Any], missing: Sequence[Shard]) -> None:
    """Write the files that workers need, and reset the number of attempts of each missing shard."""
    for shard in missing:
        (folder / shard.attempts_file_name).unlink(missing_ok=True)
    _write_manifest(folder, manifest)
    if not (folder / MODEL_FILE).exists():
        atomic_io.write_atomic(folder / MODEL_FILE, model.content)


def _collect_results(
    folder: Path,
    missing: Sequence[Shard],
    total: int,
    run_shards: RunShards,
    brightness: BrightnessCheck,
    advance: Advance,
) -> None:
    """Run the missing of `total` shards. Raises ModelError as soon as one fails."""
    remaining = {shard.number for shard in missing}
    try:
        with closing(run_shards(missing)) as results:
            for result in results:
                if result.error:
                    raise ModelError(result.error)
                remaining.discard(result.number)
                brightness.update(result.counts["ok"], result.mean_brightness)
                advance(result.rows, "")
        brightness.finish()
    except BaseException:
        logger.info(
            "%s: %s shards are kept; continue with --resume", folder, f"{total - len(remaining):,} of {total:,}"
        )
        raise


def _read_results(plan: Plan, shards: Iterable[Shard]) -> Iterator[ShardResult]:
    """The results in the shards' files. Raises ModelError if a file is missing or damaged."""
    for shard in shards:
        result = plan.stored_result(shard)
        if result is None:
            raise ModelError(
                f"{plan.folder / shard.file_name}: missing, damaged or from another run; continue with --resume"
            )
        yield result


def _sum_results(results: Iterable[ShardResult]) -> tuple[Counts, list[str]]:
    """The sum of the results' counts, and the names of their providers."""
    counts, providers = Counts(), set()
    for result in results:
        providers.add(result.provider)
        for name, count in result.counts.items():
            setattr(counts, name, getattr(counts, name) + count)
    return counts, sorted(providers)


def _hash_paths(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path + "\0"))
    return digest.hexdigest()


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder if needed, and lock it for this run. Raises UsageError if it contains other files."""
    if not folder.is_dir():
        atomic_io.require_writable(folder)
        folder.mkdir()
    with atomic_io.locked_folder(folder):
        foreign = next((name for name in sorted(os.listdir(folder)) if not RUN_FILE.fullmatch(name)), None)
        if foreign:
            raise UsageError(
                f"{folder}: contains {foreign}, which is not a file of a run; pass another folder with --out"
            )
        yield


def _shard_size_to_resume(folder: Path, arguments: Mapping[str, Any], *, resume: bool) -> int | None:
    """The shard size of the run to resume; None if a new run starts.

    Raises UsageError if the run to resume had other inputs or settings, or if files of a run lack its manifest.
    """
    names = sorted(os.listdir(folder))
    if MANIFEST not in names:
        if visible := [name for name in names if not name.startswith(".")]:
            raise UsageError(
                f"{folder}: contains {visible[0]} but no {MANIFEST}, so the run that wrote it is unknown; "
                "pass another folder with --out"
            )
        return None
    if not resume:
        return None
    manifest = _read_manifest(folder)
    if any(manifest.get(name) != arguments[name] for name in ("count", PATHS_SHA256)):
        raise UsageError(
            f"{folder}: the inputs differ from those of the earlier run ({manifest.get('count')} files before, "
            f"{arguments['count']} now); pass the same inputs, or omit --resume to start again"
        )
    require_same(folder, manifest, arguments)
    return manifest["shard size"]


def _delete_earlier_run(folder: Path) -> None:
    """Delete all files of an earlier run but its manifest, without which the next run would refuse the folder."""
    names = sorted(os.listdir(folder))  # _SUCCESS sorts before the shards: no incomplete run is marked as complete
    if MANIFEST in names:
        logger.info("%s: starting again; the earlier run is deleted", folder)
    for name in names:
        if name != MANIFEST:
            (folder / name).unlink()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = schema.parse(path.read_bytes(), subject=str(path), error=UsageError)
        return {**manifest, "shard size": int(manifest["shard size"])}
    except (UsageError, KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: cannot be read; omit --resume to start again") from None


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    atomic_io.write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
