"""A results file holds each row once, byte for byte, whatever stopped the run on the way."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

from netkit.core.errors import UsageError
from netkit.data.dataset import ArrayDataSet
from netkit.infer.output import results_file
from netkit.infer.output.prediction import Counts, Row
from netkit.infer.output.results_file import open_results
from tests.support.rows import NAMES, RANKED, ROWS

COLUMNS = ["path", "label", "probability", "status", "message"]
MORE_COLUMNS = [*COLUMNS, "label_2", "probability_2", "label_3", "probability_3"]
FORMS = ("r.csv", "r.jsonl", "r.parquet")


def write(path: Path, rows: list[Row], *, top_k: int = 1, **options: Any) -> None:
    with open_results(path, **{"top_k": top_k, "counts": Counts(frozenset()), "arguments": {}, **options}) as sink:
        for start in range(0, len(rows), 5):
            sink.write(rows[start : start + 5])


def as_text(value: object) -> str:
    return "" if value is None else str(value)


def expected_cells(row: Row, columns: list[str]) -> list[object]:
    """What a results file is to hold for `row`, by DESIGN's list of columns."""
    if row.status != "ok":
        return [row.path, None, None, row.status, row.message, *[None] * (len(columns) - 5)]
    (label, p), (label_2, p_2), (label_3, p_3) = row.ranked
    cells = [row.path, label, round(p, 6), "ok", "", label_2, round(p_2, 6), label_3, round(p_3, 6)]
    return cells[: len(columns)]


@pytest.mark.parametrize(("top_k", "columns"), [(1, COLUMNS), (3, MORE_COLUMNS)])
def test_csv_and_json_lines_give_back_every_name_byte_for_byte(tmp_path: Path, top_k: int, columns: list[str]) -> None:
    for name in ("r.csv", "r.jsonl"):
        write(tmp_path / name, ROWS, top_k=top_k)
    expected = [expected_cells(row, columns) for row in ROWS]
    with open(tmp_path / "r.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == columns
    assert lines == [[as_text(cell) for cell in cells] for cells in expected]
    objects = [json.loads(line) for line in (tmp_path / "r.jsonl").read_bytes().decode("ascii").split("\n")[:-1]]
    assert [list(found) for found in objects] == [columns] * len(ROWS)
    assert [list(found.values()) for found in objects] == expected
    assert [os.fsencode(found["path"]) for found in objects[::2]] == [os.fsencode(name) for name in NAMES]
    assert b"\n\xff\xfe\x80.png,7,0.751235,ok," in (tmp_path / "r.csv").read_bytes()


@pytest.mark.parametrize(("top_k", "columns"), [(1, COLUMNS), (3, MORE_COLUMNS)])
def test_parquet_has_the_same_columns_with_odd_bytes_spelled_out(
    tmp_path: Path, top_k: int, columns: list[str]
) -> None:
    write(tmp_path / "r.parquet", ROWS, top_k=top_k)
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.column_names == columns
    expected = [expected_cells(row, columns) for row in ROWS]
    for cells in expected:
        cells[0] = str(cells[0]).replace("\\", "\\\\")
        for column in (0, 4):
            cells[column] = str(cells[column]).replace("\udcff\udcfe\udc80", r"\xff\xfe\x80")
    assert [list(found.values()) for found in table.to_pylist()] == expected
    assert {str(field.type) for field in table.schema} == {"string", "double"}


@pytest.mark.parametrize("name", FORMS)
def test_a_suffix_in_capitals_means_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    write(tmp_path / name.upper(), ROWS)
    assert (tmp_path / name.upper()).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", FORMS)
def test_no_rows_make_a_file_with_the_columns_alone(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [])
    content = (tmp_path / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == [f".{name}.journal", name]
    if name == "r.parquet":
        assert parquet.read_table(tmp_path / name).num_rows == 0
    else:
        assert content == (b"path,label,probability,status,message\n" if name == "r.csv" else b"")


class Full(Exception):
    pass


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("fault", [Full, KeyboardInterrupt, SystemExit])
def test_an_exception_before_anything_is_kept_leaves_no_file_and_an_earlier_one_as_it_was(
    tmp_path: Path, name: str, fault: type[BaseException]
) -> None:
    path = tmp_path / name
    for earlier in (None, b"earlier results"):
        if earlier:
            path.write_bytes(earlier)
        with (
            pytest.raises(fault),
            open_results(path, top_k=1, counts=Counts(frozenset()), arguments={}) as sink,
        ):
            sink.write([Row("a.png", RANKED)])
            assert path.exists() == bool(earlier)
            raise fault
        left = {name} if earlier else set()
        if earlier and not issubclass(fault, Exception):  # stopped: what is there is not the result of this run
            left |= {f".{name}.journal", f".{name}.part"}
        assert {found.name for found in tmp_path.iterdir()} == left
        assert not earlier or path.read_bytes() == earlier


def test_a_run_that_was_stopped_at_once_is_gone_on_with_although_an_earlier_one_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, ROWS[:1])
    with (
        pytest.raises(KeyboardInterrupt),
        open_results(path, top_k=1, counts=Counts(frozenset()), arguments={}) as sink,
    ):
        sink.write(ROWS[:3])
        raise KeyboardInterrupt
    counts = Counts(frozenset())
    with open_results(path, top_k=1, counts=counts, arguments={}, resume=True) as sink:
        assert list(sink.remaining(iter([row.path for row in ROWS]))) == [row.path for row in ROWS]
        sink.write(ROWS)
    write(tmp_path / "whole.csv", ROWS)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == [".r.csv.journal", ".whole.csv.journal", "r.csv", "whole.csv"]


def test_a_results_file_takes_the_place_of_an_earlier_one_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("earlier results, much longer than the new ones, which must not show behind them" * 9)
    write(path, [Row("a.png", RANKED)])
    assert path.read_text() == "path,label,probability,status,message\na.png,7,0.751235,ok,\n"
    assert sorted(os.listdir(tmp_path)) == [".r.csv.journal", "r.csv"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("r.txt", "--out {folder}/r.txt: results are written as .csv, .jsonl or .parquet"),
        ("r", "--out {folder}/r: results are written as .csv, .jsonl or .parquet"),
        ("none/r.csv", "{folder}/none/r.csv: there is no folder {folder}/none"),
        ("file/r.csv", "{folder}/file/r.csv: there is no folder {folder}/file"),
        ("folder.csv", "{folder}/folder.csv: a folder, not a file"),
        ("pipe.csv", "{folder}/pipe.csv: not a regular file, which a result could replace"),
    ],
)
def test_a_place_where_results_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        write(tmp_path / name, ROWS)
    assert str(caught.value) == says.format(folder=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_two_runs_into_one_file_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with open_results(path, top_k=1, counts=Counts(frozenset()), arguments={}) as sink:
        sink.write(ROWS[:1])
        with pytest.raises(UsageError, match=r"r\.csv: another run is writing it$"):
            write(path, ROWS)
    assert path.read_bytes().count(b"\n") == 2


def stopped(path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> None:
    """A run that saved all rows, and was then stopped."""
    monkeypatch.setattr(results_file, "SAVE_EVERY_S", 0)
    with (
        pytest.raises(KeyboardInterrupt),
        open_results(path, top_k=1, counts=Counts(frozenset()), arguments=arguments) as sink,
    ):
        sink.write(rows)
        raise KeyboardInterrupt


def test_going_on_takes_the_rows_that_are_kept_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.csv"
    stopped(path, ROWS[:7], monkeypatch)
    counts = Counts(frozenset())
    with open_results(path, top_k=1, counts=counts, arguments={}, resume=True) as sink:
        assert (counts.ok, counts.failed) == (4, 3)
        remaining = list(sink.remaining(iter([row.path for row in ROWS])))
        assert remaining == [row.path for row in ROWS[7:]]
        sink.write(ROWS[7:])
    write(tmp_path / "whole.csv", ROWS)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == [".r.csv.journal", ".whole.csv.journal", "r.csv", "whole.csv"]


def test_going_on_with_another_run_or_other_inputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.csv"
    stopped(path, ROWS[:7], monkeypatch, model="a", inputs=["x/"])
    with pytest.raises(UsageError, match=r"r\.csv: this run was started with model 'a', not 'b'; resume it"):
        write(path, [], arguments={"model": "b", "inputs": ["x/"]}, resume=True)
    same = {"model": "a", "inputs": ["x/"]}
    counts = Counts(frozenset())
    with (
        pytest.raises(UsageError, match=r"r\.csv: the first 7 inputs are not those of the earlier run; leave"),
        open_results(path, top_k=1, counts=counts, arguments=same, resume=True) as sink,
    ):
        sink.remaining(iter(["another", *[row.path for row in ROWS[1:]]]))
    (tmp_path / ".r.csv.part").write_bytes(b"")
    with pytest.raises(
        UsageError,
        match=r"r\.csv: the rows of the earlier run are gone or were changed",
    ):
        write(path, [], arguments=same, resume=True)
    (tmp_path / ".r.csv.journal").write_text("{")
    with pytest.raises(UsageError, match=r"r\.csv: the journal is not JSON"):
        write(path, [], arguments=same, resume=True)
    write(path, ROWS)
    assert sorted(os.listdir(tmp_path)) == [".r.csv.journal", "r.csv"]


def resumed(path: Path, rows: list[Row], **arguments: Any) -> Counts:
    counts = Counts(frozenset())
    with open_results(path, top_k=1, counts=counts, arguments=arguments, resume=True) as sink:
        assert list(sink.remaining(iter([row.path for row in rows]))) == []
        assert sink.finished
    return counts


@pytest.mark.parametrize("name", FORMS)
def test_resuming_a_finished_run_changes_nothing_and_counts_its_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, ROWS, arguments={"model": "a"})
    before = {found.name: found.read_bytes() for found in tmp_path.iterdir()}
    counts = resumed(path, ROWS, model="a")
    assert (counts.ok, counts.failed) == (len(ROWS) / 2, len(ROWS) / 2)
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", FORMS)
def test_a_file_is_no_finished_run_of_another_model_other_inputs_or_an_unknown_writer(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    write(path, ROWS, arguments={"model": "a"})
    before = path.read_bytes()
    with pytest.raises(UsageError, match="this run was started with model 'a', not 'b'"):
        resumed(path, ROWS, model="b")
    with pytest.raises(UsageError, match=f"the first {len(ROWS)} inputs are not those of the earlier run"):
        resumed(path, [Row("other.png"), *ROWS[1:]], model="a")
    with pytest.raises(UsageError, match=f"the earlier run had {len(ROWS)} inputs, now there are more"):
        resumed(path, [*ROWS, Row("more.png")], model="a")
    path.write_bytes(before + b"by hand")
    with pytest.raises(UsageError, match="the rows of the earlier run are gone or were changed"):
        resumed(path, ROWS, model="a")
    (tmp_path / f".{name}.journal").unlink()
    with pytest.raises(UsageError, match="no journal says which run wrote this file; leave out --resume to start anew"):
        resumed(path, ROWS, model="a")
    assert path.read_bytes() == before + b"by hand" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_run_killed_just_before_its_file_got_its_name_is_finished_by_the_next(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, ROWS)
    content = path.read_bytes()
    os.replace(path, tmp_path / f".{name}.part")
    counts = Counts(frozenset())
    with open_results(path, top_k=1, counts=counts, arguments={}, resume=True) as sink:
        assert list(sink.remaining(iter([row.path for row in ROWS]))) == []
    assert path.read_bytes() == content and counts.total == len(ROWS)
    assert resumed(path, ROWS).total == len(ROWS)


PROGRAM = """
import sys
from netkit.cli import cli
from netkit.infer.output import results_file
results_file.SAVE_EVERY_S = 0.02
cli(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "r.csv" else pytest.mark.slow) for name in FORMS]
)
def test_killed_at_random_moments_and_gone_on_with_gives_the_uninterrupted_file(
    tmp_path: Path, workplace: Path, digits_data: ArrayDataSet, name: str
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a/bad.png").write_bytes(b"no image")
    for index, image in enumerate(digits_data.test_images):
        Image.fromarray(image[0]).save(tmp_path / f"a/{index}.png")
    for index in range(20_000):  # most of them not readable, so that the network takes little of the time
        good = tmp_path / f"a/{index % 355}.png"
        os.link(good if index % 10 == 0 else tmp_path / "a/bad.png", tmp_path / f"b/{index}.png")
    common = ["infer", "b", "a", "--model", str(workplace / "runs/residual/model.onnx"), "--batch-size", "3", "--out"]
    whole = subprocess.run([sys.executable, "-c", PROGRAM, *common, f"whole-{name}"], cwd=tmp_path, capture_output=True)
    assert whole.returncode == 1
    chance, kills = random.Random(name), 0
    while not (tmp_path / name).exists():
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *common, name, "--resume"], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        while not (tmp_path / f".{name}.part").exists() and process.poll() is None:
            time.sleep(0.002)
        try:
            process.wait(chance.uniform(0, 0.3) if kills < 6 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills > 1
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    names = [name, f"whole-{name}"]
    left = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".tmp")  # a killed writer's, until stale
    assert left == sorted(["a", "b", *names, *(f".{name}.journal" for name in names)])
