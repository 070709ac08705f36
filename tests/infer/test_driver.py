"""A run in shards: it writes the rows of the local engine, and a resumed run keeps complete shards."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from netkit.core.errors import ModelError, UsageError
from netkit.core.progress import no_progress
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.infer import job
from netkit.infer.cluster import driver
from netkit.infer.cluster.shards import Plan, Shard, ShardResult, Worker
from netkit.infer.job import Outcome
from netkit.infer.model.onnx_file import Model
from netkit.infer.pipeline.inputs import find_inputs
from netkit.infer.runtime.session import open_session
from tests.support.clusters import (
    ShardRunner,
    Stopped,
    engine_of,
    engine_that_raises,
    record_numbers,
    run_in_process,
    stop_after,
)

COUNT = 90  # files, of which five cannot be read


@pytest.fixture
def images(tmp_path: Path, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with digits, in a folder per label, and five files that cannot be read."""
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    for number, label in enumerate(digits_data.test_labels[: COUNT - 5]):
        path = folder / str(label) / "0" / f"{number}.png"  # class folders that contain another one
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_data.test_images[number][0]).save(path)
    for number, content in enumerate((b"", b"not an image", b"GIF89a", b"\x89PNG\r\n\x1a\n")):
        (folder / f"bad{number}.png").write_bytes(content)
    (folder / os.fsdecode(b"gone\xff.png")).symlink_to("nowhere")
    return folder


@pytest.fixture
def plan(tmp_path: Path, images: Path, model: Model) -> Plan:
    inputs = (str(images),)
    return Plan(tmp_path / "out", model.sha256, Decoder(model.card.input), "cpu", 64, 2, verified=True, inputs=inputs)


Run = Callable[..., Outcome]


@pytest.fixture
def run(plan: Plan, images: Path, model: Model) -> Run:
    """A function that runs the plan, or another one, on the images."""

    def run_plan(
        runner: ShardRunner = run_in_process,
        *,
        plan: Plan = plan,
        engine: driver.Engine | None = None,
        resume: bool = False,
        workers: int = 1,
    ) -> Outcome:
        paths, engine = find_inputs([str(images)]), engine or engine_of(runner)
        return driver.run(plan, model, paths, engine, workers=workers, resume=resume, advance=no_progress)

    return run_plan


def rows_in(folder: Path) -> list[dict[str, object]]:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).replace_schema_metadata().to_pylist()


def mtimes(folder: Path, pattern: str = "*") -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_shards_contain_the_rows_of_the_local_engine(
    run: Run, plan: Plan, images: Path, model: Model, tmp_path: Path
) -> None:
    outcome = run()
    local_job = job.Job((str(images),), plan.decoder, 64, 1, plan.top_k, tmp_path / "local.parquet", False)
    session = open_session(model, device="cpu", threads=1)
    expected = job.run(local_job, session, find_inputs([str(images)]), advance=no_progress)
    assert rows_in(plan.folder) == pq.read_table(tmp_path / "local.parquet").to_pylist()
    assert outcome.counts.as_dict() == expected.counts.as_dict()
    assert outcome.counts.failed == 5 and outcome.counts.total == COUNT
    labels = [(row["label"], str(row["path"]).split("/")[1]) for row in rows_in(plan.folder) if row["status"] == "ok"]
    assert outcome.counts.labelled == len(labels) and outcome.counts.correct == sum(a == b for a, b in labels) > 0
    assert outcome.providers == expected.providers
    assert len(pq.read_table(plan.folder)) == COUNT  # other programs can read the folder as one data set


def test_the_manifest_is_written_first_and_the_success_file_last(run: Run, plan: Plan) -> None:
    def check_files(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
        assert json.loads((plan.folder / "_manifest.json").read_text())["count"] == COUNT
        yield from run_in_process(plan, shards)
        assert not (plan.folder / "_SUCCESS").exists()

    run(check_files)
    manifest = json.loads((plan.folder / "_manifest.json").read_text())
    assert manifest["inputs"] == ["images"] and manifest["model"] == plan.model_sha256
    assert manifest["rows"]["ok"] == COUNT - 5 and manifest["rows"]["failed"] == 5
    assert manifest["shards"] == len(list(plan.folder.glob("part-*.parquet")))
    assert (plan.folder / "_SUCCESS").exists()


def test_a_resumed_run_processes_only_missing_shards(run: Run, plan: Plan) -> None:
    with pytest.raises(Stopped):
        run(stop_after(reported=30))
    assert not (plan.folder / "_SUCCESS").exists()
    complete = mtimes(plan.folder, "part-*")
    assert len(complete) == 31
    processed: list[int] = []
    outcome = run(record_numbers(processed), resume=True)
    assert processed == list(range(31, COUNT))  # one input per shard; shard 30 was complete but not reported
    assert outcome.counts.total == COUNT
    assert complete.items() <= mtimes(plan.folder).items()
    assert len({row["path"] for row in rows_in(plan.folder)}) == COUNT == len(rows_in(plan.folder))


def test_damaged_and_foreign_shards_are_processed_again(run: Run, plan: Plan) -> None:
    run()
    before = rows_in(plan.folder)
    (plan.folder / "_SUCCESS").unlink()
    (plan.folder / "part-00003.parquet").write_bytes(b"PAR1 and no more")
    shutil.copy(plan.folder / "part-00005.parquet", plan.folder / "part-00007.parquet")
    processed: list[int] = []
    run(record_numbers(processed), resume=True)
    assert processed == [3, 7]
    assert rows_in(plan.folder) == before


def test_a_complete_run_is_left_unchanged_unless_a_shard_is_missing(run: Run, plan: Plan) -> None:
    first = run()
    before = mtimes(plan.folder)
    processed: list[int] = []
    second = run(record_numbers(processed), resume=True)
    assert before == mtimes(plan.folder)
    assert processed == [] and second.counts.as_dict() == first.counts.as_dict() and second.new_rows == 0
    with pytest.raises(UsageError, match="started with top-k 2, but this command has 1"):
        run(plan=replace(plan, top_k=1), resume=True)
    with pytest.raises(UsageError, match="started with model"):
        run(plan=replace(plan, model_sha256="0" * 64), resume=True)
    (plan.folder / "part-00004.parquet").unlink()

    def check_files(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
        assert not (plan.folder / "_SUCCESS").exists()
        yield from record_numbers(processed)(plan, shards)

    run(check_files, resume=True)
    assert processed == [4] and (plan.folder / "_SUCCESS").exists()


def test_a_run_without_inputs_starts_no_engine(plan: Plan, model: Model) -> None:
    engine = engine_that_raises(AssertionError())
    outcome = driver.run(plan, model, iter(()), engine, workers=2, resume=False, advance=no_progress)
    assert outcome.counts.total == 0 and (plan.folder / "_SUCCESS").exists()


def test_a_flipped_bit_in_a_shard_is_detected_or_changes_no_row(run: Run, plan: Plan) -> None:
    run()
    part = plan.folder / "part-00003.parquet"
    content, rows = part.read_bytes(), pq.read_table(part).to_pylist()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    detected = 0
    for at in range(4, footer):
        part.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        if plan.stored_result(Shard(3, (rows[0]["path"],))):
            assert pq.read_table(part).to_pylist() == rows  # the bit is in an unused field of a page header
        else:
            detected += 1
    assert detected > 0.6 * (footer - 4)


def test_the_brightness_warning_considers_all_shards_together(
    run: Run, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(images.rglob("[0-9]*.png"))
    for number, file in enumerate(files):  # over all shards the mean is that of digits, but not in any single shard
        Image.new("L", (8, 8), 150 * (number % 2)).save(file)
    caplog.set_level("INFO")
    run()
    assert "brightness" not in caplog.text
    for file in files:
        Image.new("L", (8, 8), 250).save(file)
    run()
    assert caplog.text.count("mean brightness of the images is 0.98") == 1


def test_a_run_with_other_inputs_or_settings_cannot_be_resumed(run: Run, plan: Plan, images: Path) -> None:
    with pytest.raises(Stopped):
        run(stop_after(reported=3))
    with pytest.raises(UsageError, match="started with top-k 2, but this command has 1"):
        run(plan=replace(plan, top_k=1), resume=True)
    (images / "bad0.png").unlink()
    with pytest.raises(UsageError, match=f"the earlier run .{COUNT} files before, {COUNT - 1} now.;"):
        run(resume=True)
    run()  # starts again
    assert len(rows_in(plan.folder)) == COUNT - 1


def test_a_folder_with_other_files_is_rejected(run: Run, plan: Plan) -> None:
    plan.folder.mkdir()
    (plan.folder / "other.txt").write_text("not part of a run")
    with pytest.raises(UsageError, match=r"contains other\.txt, which is not a file of a run"):
        run()
    assert os.listdir(plan.folder) == ["other.txt"]
    with pytest.raises(UsageError, match=r"the folder .* does not exist"):
        run(plan=replace(plan, folder=plan.folder / "none" / "out"))


def test_shards_without_a_manifest_are_rejected(run: Run, plan: Plan) -> None:
    plan.folder.mkdir()
    (plan.folder / "part-00000.parquet").write_bytes(b"from another program")
    (plan.folder / "_SUCCESS").touch()
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"contains _SUCCESS but no _manifest\.json"):
            run(resume=resume)
    assert len(os.listdir(plan.folder)) == 2


def test_an_earlier_run_is_kept_if_the_engine_cannot_start(run: Run, plan: Plan) -> None:
    run()
    before = sorted(os.listdir(plan.folder))
    with pytest.raises(UsageError, match="no cluster"):
        run(engine=engine_that_raises(UsageError("no cluster")))
    assert sorted(os.listdir(plan.folder)) == before


def test_a_worker_needs_the_working_dir_only_for_relative_paths(plan: Plan, images: Path, run: Run) -> None:
    run()
    worker = Worker(replace(plan, working_dir=Path("/nowhere")))
    absolute = Shard(0, (str((images / "bad0.png").absolute()),))
    assert worker(absolute).counts["failed"] == 1
    error = worker(Shard(1, ("a.png",))).error
    assert "/nowhere: cannot be opened on" in error and error.endswith("; pass absolute paths")


def test_a_shard_that_kills_three_workers_fails_the_run(run: Run, plan: Plan) -> None:
    def kill_three_workers(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
        for _ in range(3):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
                patch.setattr(Worker, "_process", lambda self, shard: sys.exit())
                Worker(plan)(shards[0])
        yield from run_in_process(plan, shards)

    with pytest.raises(
        ModelError, match=r"part-00000\.parquet: 3 workers died on its 1 inputs .* or because of an image$"
    ):
        run(kill_three_workers)
    run(resume=True)  # counts attempts from zero
    assert not [name for name in os.listdir(plan.folder) if name.endswith("tries")]


def test_a_second_run_in_the_same_folder_is_rejected(run: Run, plan: Plan) -> None:
    def run_again(plan: Plan, shards: Sequence[Shard]) -> Generator[ShardResult]:
        with pytest.raises(UsageError, match="in use by another run"):
            run()
        yield from run_in_process(plan, shards)

    run(run_again)
    assert (plan.folder / "_SUCCESS").exists()


def test_an_error_in_a_worker_fails_the_run_with_its_message(run: Run, plan: Plan) -> None:
    with pytest.raises(Stopped):
        run(stop_after(reported=1))
    (plan.folder / "_model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"_model\.onnx: is damaged, or not an ONNX model"):
        run(resume=True)
    assert not (plan.folder / "_SUCCESS").exists()


def test_a_shard_that_was_never_written_fails_the_run(run: Run, plan: Plan) -> None:
    with pytest.raises(ModelError, match=rf"part-000{COUNT - 1}\.parquet: missing"):
        run(lambda plan, shards: run_in_process(plan, [*shards[:-1], shards[0]]))
    assert not (plan.folder / "_SUCCESS").exists()


def test_more_workers_get_smaller_shards(run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "MIN_SHARDS_PER_WORKER", 10)
    run(workers=3)
    assert len(list(plan.folder.glob("part-*"))) == 30
