"""A run as shards in a folder: the rows of a results file, and who goes on leaves what is whole."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from netkit.core.errors import ModelError, UsageError
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.infer import job
from netkit.infer.cluster import driver
from netkit.infer.cluster.shards import Made, Plan, Shard, Worker
from netkit.infer.job import Outcome
from netkit.infer.model.onnx_file import Model
from netkit.infer.pipeline.inputs import find_inputs
from netkit.infer.runtime.session import open_session
from tests.support.clusters import Make, engine_of, in_turn

COUNT = 90  # files, of which five cannot be read


class Stopped(BaseException):
    pass


def stopping(after: int) -> Make:
    """One that is stopped when so many shards are made, and one more is, of which nobody was told."""

    def engine(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
        *told, _ = map(Worker(plan), some[: after + 1])
        yield from told
        raise Stopped

    return engine


def counting(asked: list[int]) -> Make:
    def engine(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
        asked.extend(shard.number for shard in some)
        yield from in_turn(plan, some)

    return engine


@pytest.fixture
def images(tmp_path: Path, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of digits, in folders by their labels, with files that cannot be read among them."""
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    for number, label in enumerate(digits_data.test_labels[: COUNT - 5]):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_data.test_images[number][0]).save(path)
    for number, content in enumerate((b"", b"no image", b"GIF89a", b"\x89PNG\r\n\x1a\n")):
        (folder / f"bad{number}.png").write_bytes(content)
    (folder / os.fsdecode(b"gone\xff.png")).symlink_to("nowhere")
    return folder


@pytest.fixture
def plan(tmp_path: Path, images: Path, model: Model) -> Plan:
    return Plan(tmp_path / "out", model.sha256, Decoder(model.card.input), "cpu", 64, 2, proven=True)


Run = Callable[..., Outcome]


@pytest.fixture
def run(plan: Plan, images: Path, model: Model) -> Run:
    """Run the plan, or another one, over the images."""

    def done(make: Make = in_turn, *, plan: Plan = plan, resume: bool = False, workers: int = 1) -> Outcome:
        inputs = [str(images)]
        found = find_inputs(inputs)
        return driver.run(
            plan,
            model,
            inputs,
            found,
            engine_of(make),
            workers=workers,
            resume=resume,
            advance=lambda count, note: None,
        )

    return done


def rows_in(folder: Path) -> list[dict[str, object]]:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).replace_schema_metadata().to_pylist()


def test_shards_hold_the_rows_of_the_local_engine_bad_files_included(
    run: Run, plan: Plan, images: Path, model: Model, tmp_path: Path
) -> None:
    outcome = run()
    alone = job.Job((str(images),), plan.decoder, 64, 1, plan.top_k, tmp_path / "alone.parquet", False)
    session = open_session(model, device="cpu", threads=1)
    expected = job.run(alone, session, find_inputs([str(images)]), advance=lambda count, note: None)
    assert rows_in(plan.folder) == pq.read_table(tmp_path / "alone.parquet").to_pylist()
    assert outcome.counts.as_dict() == expected.counts.as_dict()
    assert outcome.counts.failed == 5 and outcome.counts.total == COUNT
    assert outcome.provider == expected.provider
    assert len(pq.read_table(plan.folder)) == COUNT  # the folder is a data set to others, too


def test_the_manifest_says_what_the_run_is_of_and_the_mark_comes_last(run: Run, plan: Plan, images: Path) -> None:
    def looking(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
        assert json.loads((plan.folder / "_manifest.json").read_text())["count"] == COUNT
        yield from in_turn(plan, some)
        assert not (plan.folder / "_SUCCESS").exists()

    run(looking)
    manifest = json.loads((plan.folder / "_manifest.json").read_text())
    assert manifest["inputs"] == ["images"] and manifest["model"] == plan.model_sha256
    assert manifest["rows"]["ok"] == COUNT - 5 and manifest["rows"]["failed"] == 5
    assert manifest["shards"] == len(list(plan.folder.glob("part-*.parquet")))
    assert (plan.folder / "_SUCCESS").exists()


def test_who_goes_on_makes_only_what_is_not_there(run: Run, plan: Plan, images: Path) -> None:
    with pytest.raises(Stopped):
        run(stopping(after=30))
    assert not (plan.folder / "_SUCCESS").exists()
    whole = {path: path.stat().st_mtime_ns for path in plan.folder.glob("part-*")}
    assert len(whole) == 31
    rest: list[int] = []
    outcome = run(counting(rest), resume=True)
    assert rest == list(range(31, COUNT))  # shards of one: the last that nobody was told of is there as well
    assert outcome.counts.total == COUNT
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    assert len({row["path"] for row in rows_in(plan.folder)}) == COUNT == len(rows_in(plan.folder))


def test_a_damaged_part_and_one_of_another_run_are_made_anew(run: Run, plan: Plan, images: Path) -> None:
    run()
    before = rows_in(plan.folder)
    (plan.folder / "_SUCCESS").unlink()
    (plan.folder / "part-00003.parquet").write_bytes(b"PAR1 and no more")
    shutil.copy(plan.folder / "part-00005.parquet", plan.folder / "part-00007.parquet")
    rest: list[int] = []
    run(counting(rest), resume=True)
    assert rest == [3, 7]
    assert rows_in(plan.folder) == before


def test_a_run_that_has_ended_is_looked_at_and_left_as_it_is(run: Run, plan: Plan, images: Path) -> None:
    first = run()
    before = {path: path.stat().st_mtime_ns for path in plan.folder.iterdir()}
    rest: list[int] = []
    again = run(counting(rest), resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in plan.folder.iterdir()}
    assert rest == [] and again.counts.as_dict() == first.counts.as_dict() and again.provider == ""
    with pytest.raises(UsageError, match="started with top-k 2, not 1"):
        run(plan=replace(plan, top_k=1), resume=True)
    with pytest.raises(UsageError, match="started with model"):
        run(plan=replace(plan, model_sha256="0" * 64), resume=True)
    (plan.folder / "part-00004.parquet").unlink()

    def looking(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
        assert not (plan.folder / "_SUCCESS").exists()
        yield from counting(rest)(plan, some)

    run(looking, resume=True)
    assert rest == [4] and (plan.folder / "_SUCCESS").exists()


def test_of_no_inputs_no_worker_is_asked(plan: Plan, model: Model, images: Path) -> None:
    def none(plan: Plan) -> AbstractContextManager[driver.Work]:
        raise AssertionError

    done = driver.run(plan, model, [], iter(()), none, workers=2, resume=False, advance=lambda count, note: None)
    assert done.counts.total == 0 and (plan.folder / "_SUCCESS").exists()


def test_a_part_is_whole_to_the_last_bit_of_its_rows_or_made_anew(run: Run, plan: Plan, images: Path) -> None:
    run()
    part = plan.folder / "part-00003.parquet"
    whole, rows = part.read_bytes(), pq.read_table(part).to_pylist()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    noticed = 0
    for at in range(4, footer):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        if plan.done(Shard(3, (rows[0]["path"],))):
            assert pq.read_table(part).to_pylist() == rows  # of a page's header, what nobody reads
        else:
            noticed += 1
    assert noticed > 0.6 * (footer - 4)


def test_the_light_is_judged_by_all_shards_as_by_the_local_engine(
    run: Run, plan: Plan, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(images.rglob("[0-9]*.png"))
    for number, file in enumerate(files):
        Image.new("L", (8, 8), 150 * (number % 2)).save(file)  # in the mean as bright as digits; each alone is not
    caplog.set_level("INFO")
    run()
    assert "brightness" not in caplog.text
    for file in files:
        Image.new("L", (8, 8), 250).save(file)
    run()
    assert caplog.text.count("mean brightness is 0.98") == 1


def test_a_run_of_other_inputs_or_settings_is_not_gone_on_with(run: Run, plan: Plan, images: Path) -> None:
    with pytest.raises(Stopped):
        run(stopping(after=3))
    with pytest.raises(UsageError, match="started with top-k 2, not 1"):
        run(plan=replace(plan, top_k=1), resume=True)
    (images / "bad0.png").unlink()
    with pytest.raises(UsageError, match=f"started with other inputs: {COUNT} files, not these {COUNT - 1};"):
        run(resume=True)
    run()  # without it, anew
    assert len(rows_in(plan.folder)) == COUNT - 1


def test_a_folder_that_holds_something_else_is_left_alone(run: Run, plan: Plan, images: Path) -> None:
    plan.folder.mkdir()
    (plan.folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds thesis\.tex, which is no part of a run"):
        run()
    assert os.listdir(plan.folder) == ["thesis.tex"]
    with pytest.raises(UsageError, match="there is no folder"):
        run(plan=replace(plan, folder=plan.folder / "none" / "out"))


def test_parts_of_nobody_knows_whom_are_left_alone(run: Run, plan: Plan, images: Path) -> None:
    plan.folder.mkdir()
    (plan.folder / "part-00000.parquet").write_bytes(b"of a job of somebody else's")
    (plan.folder / "_SUCCESS").touch()
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"holds _SUCCESS and no _manifest\.json"):
            run(resume=resume)
    assert len(os.listdir(plan.folder)) == 2


def test_a_run_that_is_there_stays_until_another_can_begin(run: Run, plan: Plan, images: Path, model: Model) -> None:
    run()
    before = sorted(os.listdir(plan.folder))

    def none(plan: Plan) -> AbstractContextManager[driver.Work]:
        raise UsageError("no cluster")

    with pytest.raises(UsageError, match="no cluster"):
        found = find_inputs([str(images)])
        driver.run(plan, model, [], found, none, workers=1, resume=False, advance=lambda count, note: None)
    assert sorted(os.listdir(plan.folder)) == before


def test_a_worker_needs_the_home_of_relative_paths_alone(plan: Plan, images: Path, run: Run) -> None:
    run()
    away = replace(plan, home=Path("/nowhere"))
    absolute = Shard(0, (str((images / "bad0.png").absolute()),))
    assert Worker(away)(absolute).counts["failed"] == 1
    assert "/nowhere: where relative paths start is not to be had on" in Worker(away)(Shard(1, ("a.png",))).fault


def test_what_workers_die_of_is_not_tried_for_ever(run: Run, plan: Plan, images: Path) -> None:
    def dying(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
        for _ in range(3):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
                patch.setattr(Worker, "_made", lambda self, shard: sys.exit())
                Worker(plan)(some[0])
        yield from in_turn(plan, some)

    with pytest.raises(ModelError, match=r"part-00000\.parquet: 3 workers died of it: by one of its 1 inputs"):
        run(dying)
    run(resume=True)  # which begins to count anew
    assert not [name for name in os.listdir(plan.folder) if name.endswith("tries")]


def test_a_second_run_into_the_same_folder_is_refused(run: Run, plan: Plan, images: Path) -> None:
    def another(plan: Plan, some: Sequence[Shard]) -> Generator[Made]:
        with pytest.raises(UsageError, match="another run is writing it"):
            run()
        yield from in_turn(plan, some)

    run(another)
    assert (plan.folder / "_SUCCESS").exists()


def test_what_a_worker_cannot_do_ends_the_run_with_the_reason(run: Run, plan: Plan, images: Path) -> None:
    with pytest.raises(Stopped):
        run(stopping(after=1))
    (plan.folder / "_model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"_model\.onnx: not an ONNX model"):
        run(resume=True)
    assert not (plan.folder / "_SUCCESS").exists()


def test_a_worker_that_forgets_a_shard_is_found_out(run: Run, plan: Plan, images: Path) -> None:
    with pytest.raises(ModelError, match=rf"part-000{COUNT - 1}\.parquet: is not there"):
        run(lambda plan, some: in_turn(plan, [*some[:-1], some[0]]))
    assert not (plan.folder / "_SUCCESS").exists()


def test_the_more_workers_the_smaller_the_shards(
    run: Run, plan: Plan, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "SHARES", 10)
    run(workers=3)
    assert len(list(plan.folder.glob("part-*"))) == 30
