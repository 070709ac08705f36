"""A results file contains each row once, byte for byte, even if the run was stopped and resumed."""

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from netkit.core.errors import UsageError
from netkit.data.dataset import ArrayDataSet
from netkit.infer.output import results_file
from netkit.infer.output.prediction import Counts, Row
from netkit.infer.output.results_file import Results, open_results
from tests.support.commands import write_digits
from tests.support.rows import NAMES, RANKED, ROWS

COLUMNS = ["path", "label", "probability", "status", "message", "label_2", "probability_2", "label_3", "probability_3"]
PATHS = [row.path for row in ROWS]
FILE_NAMES = ("r.csv", "r.jsonl", "r.parquet")
with_each_format = pytest.mark.parametrize("name", FILE_NAMES)
with_each_top_k = pytest.mark.parametrize(("top_k", "columns"), [(1, COLUMNS[:5]), (3, COLUMNS)])


def start(
    path: Path, *, counts: Counts | None = None, top_k: int = 1, resume: bool = False, **arguments: Any
) -> AbstractContextManager[Results]:
    return open_results(path, top_k=top_k, counts=counts or Counts(), arguments=arguments, resume=resume)


def write(path: Path, rows: list[Row], **options: Any) -> None:
    with start(path, **options) as results:
        for first in range(0, len(rows), 5):
            results.write(rows[first : first + 5])


def stop_after(rows: list[Row], path: Path, **arguments: Any) -> None:
    """Start a run, write `rows`, and interrupt it."""
    with pytest.raises(KeyboardInterrupt), start(path, **arguments) as results:
        results.write(rows)
        raise KeyboardInterrupt


def resume(path: Path, paths: list[str], *, finished: bool = True, **arguments: Any) -> Counts:
    """Resume a run that has a row for each of `paths`."""
    counts = Counts()
    with start(path, counts=counts, resume=True, **arguments) as results:
        assert list(results.remaining(iter(paths))) == []
        assert results.finished == finished
    return counts


def expected_cells(row: Row, columns: list[str]) -> list[object]:
    """The cells of `row` in a results file with these columns."""
    if row.status != "ok":
        return [row.path, None, None, row.status, row.message, *[None] * (len(columns) - 5)]
    (label, p), (label_2, p_2), (label_3, p_3) = row.ranked
    cells = [row.path, label, round(p, 6), "ok", "", label_2, round(p_2, 6), label_3, round(p_3, 6)]
    return cells[: len(columns)]


@with_each_top_k
def test_csv_and_json_lines_contain_each_path_byte_for_byte(tmp_path: Path, top_k: int, columns: list[str]) -> None:
    for name in ("r.csv", "r.jsonl"):
        write(tmp_path / name, ROWS, top_k=top_k)
    expected = [expected_cells(row, columns) for row in ROWS]
    with open(tmp_path / "r.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == columns
    assert lines == [["" if cell is None else str(cell) for cell in cells] for cells in expected]
    objects = [json.loads(line) for line in (tmp_path / "r.jsonl").read_bytes().decode("ascii").split("\n")[:-1]]
    assert [list(row) for row in objects] == [columns] * len(ROWS)
    assert [list(row.values()) for row in objects] == expected
    assert [os.fsencode(row["path"]) for row in objects[::2]] == [os.fsencode(name) for name in NAMES]
    assert b"\n\xff\xfe\x80.png,7,0.751235,ok," in (tmp_path / "r.csv").read_bytes()


@with_each_top_k
def test_parquet_has_the_same_columns_with_escaped_bytes(tmp_path: Path, top_k: int, columns: list[str]) -> None:
    write(tmp_path / "r.parquet", ROWS, top_k=top_k)
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.column_names == columns
    expected = [expected_cells(row, columns) for row in ROWS]
    for cells in expected:
        cells[0] = str(cells[0]).replace("\\", "\\\\")
        for column in (0, 4):
            cells[column] = str(cells[column]).replace("\udcff\udcfe\udc80", r"\xff\xfe\x80")
    assert [list(row.values()) for row in table.to_pylist()] == expected
    assert {str(field.type) for field in table.schema} == {"string", "double"}


@with_each_format
def test_the_case_of_the_suffix_does_not_matter(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    write(tmp_path / name.upper(), ROWS)
    assert (tmp_path / name.upper()).read_bytes() == (tmp_path / name).read_bytes()


@with_each_format
def test_a_run_without_rows_writes_only_the_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [])
    assert sorted(os.listdir(tmp_path)) == [f".{name}.journal", name]
    if name == "r.parquet":
        assert parquet.read_table(path).num_rows == 0
    else:
        assert path.read_text() == ("path,label,probability,status,message\n" if name == "r.csv" else "")


@with_each_format
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_before_the_first_save_leaves_no_new_file_and_keeps_an_earlier_one(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    path = tmp_path / name
    for earlier in (None, b"earlier results"):
        if earlier:
            path.write_bytes(earlier)
        with pytest.raises(error), start(path) as results:
            results.write([Row("a.png", RANKED)])
            assert path.exists() == bool(earlier)
            raise error
        left = {name} if earlier else set()
        if earlier and not issubclass(error, Exception):  # stopped: --resume must not take the file for this run's
            left |= {f".{name}.journal", f".{name}.part"}
        assert set(os.listdir(tmp_path)) == left
        assert not earlier or path.read_bytes() == earlier


@pytest.mark.parametrize(("earlier", "saved"), [(ROWS[:1], 0), ([], 7)])
def test_a_resumed_run_counts_the_saved_rows_and_writes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: list[Row], saved: int
) -> None:
    path = tmp_path / "r.csv"
    if earlier:
        write(path, earlier)
    if saved:
        monkeypatch.setattr(results_file, "SAVE_EVERY_S", 0)
    stop_after(ROWS[: saved or 3], path)
    counts = Counts()
    with start(path, counts=counts, resume=True) as results:
        assert (counts.ok, counts.failed) == (math.ceil(saved / 2), saved // 2)
        assert list(results.remaining(iter(PATHS))) == PATHS[saved:]
        results.write(ROWS[saved:])
    write(tmp_path / "uninterrupted.csv", ROWS)
    assert path.read_bytes() == (tmp_path / "uninterrupted.csv").read_bytes()
    assert set(os.listdir(tmp_path)) == {".r.csv.journal", ".uninterrupted.csv.journal", "r.csv", "uninterrupted.csv"}


def test_a_results_file_replaces_an_earlier_one_after_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("earlier results, longer than the new ones" * 9)
    write(path, [Row("a.png", RANKED)])
    assert path.read_text() == "path,label,probability,status,message\na.png,7,0.751235,ok,\n"
    assert sorted(os.listdir(tmp_path)) == [".r.csv.journal", "r.csv"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r.txt", "--out {folder}/r.txt: the suffix must be .csv, .jsonl or .parquet"),
        ("r", "--out {folder}/r: the suffix must be .csv, .jsonl or .parquet"),
        ("none/r.csv", "{folder}/none/r.csv: the folder {folder}/none does not exist"),
        ("file/r.csv", "{folder}/file/r.csv: the folder {folder}/file does not exist"),
        ("folder.csv", "{folder}/folder.csv: is a folder; pass the name of a file with --out"),
        ("pipe.csv", "{folder}/pipe.csv: is not a regular file and cannot be replaced; pass another one with --out"),
    ],
)
def test_a_path_that_cannot_be_written_is_rejected_at_once(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        write(tmp_path / name, ROWS)
    assert str(caught.value) == message.format(folder=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_second_run_into_the_same_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with start(path) as results:
        results.write(ROWS[:1])
        with pytest.raises(
            UsageError, match=r"r\.csv: in use by another run; wait for it to end, or pass another --out$"
        ):
            write(path, ROWS)
    assert path.read_bytes().count(b"\n") == 2


def test_resuming_a_stopped_run_with_other_arguments_other_inputs_or_damaged_files_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    monkeypatch.setattr(results_file, "SAVE_EVERY_S", 0)
    stop_after(ROWS[:7], path, model="a", inputs=["x/"])
    with pytest.raises(UsageError, match=r"r\.csv: this run was started with model a, but this .* b .*; pass the same"):
        write(path, [], model="b", inputs=["x/"], resume=True)
    with pytest.raises(UsageError, match=r"r\.csv: the first 7 inputs differ from those of the earlier run; omit"):
        resume(path, ["another", *PATHS[1:]], model="a", inputs=["x/"])
    (tmp_path / ".r.csv.part").write_bytes(b"")
    with pytest.raises(UsageError, match=r"r\.csv: the rows of the earlier run were removed or changed"):
        write(path, [], model="a", inputs=["x/"], resume=True)
    (tmp_path / ".r.csv.journal").write_text("{")
    with pytest.raises(UsageError, match=r"r\.csv: the journal is not JSON"):
        write(path, [], model="a", inputs=["x/"], resume=True)
    write(path, ROWS)
    assert sorted(os.listdir(tmp_path)) == [".r.csv.journal", "r.csv"]


@with_each_format
def test_resuming_a_finished_run_changes_nothing_and_counts_its_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, ROWS, model="a")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    counts = resume(path, PATHS, model="a")
    assert (counts.ok, counts.failed) == (len(ROWS) / 2, len(ROWS) / 2)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@with_each_format
def test_resuming_a_finished_run_with_another_model_other_inputs_or_a_changed_file_is_rejected(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    write(path, ROWS, model="a")
    before = path.read_bytes()
    for model, paths, message in [
        ("b", PATHS, "this run was started with model a, but this command has b"),
        ("a", ["other.png", *PATHS[1:]], f"the first {len(ROWS)} inputs differ from those of the earlier run"),
        ("a", [*PATHS, "more.png"], f"the earlier run had only {len(ROWS)} inputs"),
    ]:
        with pytest.raises(UsageError, match=message):
            resume(path, paths, model=model)
    path.write_bytes(before + b"by hand")
    with pytest.raises(UsageError, match="the rows of the earlier run were removed or changed"):
        resume(path, PATHS, model="a")
    (tmp_path / f".{name}.journal").unlink()
    message = r"is not from an interrupted run, because .*\.journal is missing; omit --resume to replace the file"
    with pytest.raises(UsageError, match=message):
        resume(path, PATHS, model="a")
    assert path.read_bytes() == before + b"by hand" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_run_that_was_killed_before_the_rename_is_finished_by_resume(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, ROWS)
    content = path.read_bytes()
    os.replace(path, tmp_path / f".{name}.part")
    assert resume(path, PATHS, finished=False).total == len(ROWS)
    assert path.read_bytes() == content
    assert resume(path, PATHS).total == len(ROWS)


PROGRAM = """
import sys
from netkit.cli import cli
from netkit.infer.output import results_file
results_file.SAVE_EVERY_S = 0.02
cli(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["r.csv", *(pytest.param(name, marks=pytest.mark.slow) for name in FILE_NAMES[1:])])
def test_a_run_killed_at_random_times_and_resumed_writes_the_file_of_an_uninterrupted_run(
    tmp_path: Path, workspace: Path, digits_data: ArrayDataSet, name: str
) -> None:
    digits = write_digits(tmp_path / "a", digits_data, count=355, files=355)
    (tmp_path / "a/bad.png").write_bytes(b"not an image")
    (tmp_path / "b").mkdir()
    for index in range(20_000):  # nine of ten are unreadable, so that inference takes little of the time
        os.link(digits[index % 355] if index % 10 == 0 else tmp_path / "a/bad.png", tmp_path / f"b/{index}.png")
    model = str(workspace / "runs/residual/model.onnx")
    command = [sys.executable, "-c", PROGRAM, "infer", "b", "a", "--model", model, "--batch-size", "3", "--out"]
    uninterrupted = subprocess.run([*command, f"uninterrupted-{name}"], cwd=tmp_path, capture_output=True)
    assert uninterrupted.returncode == 1
    rng, kills = random.Random(name), 0
    while not (tmp_path / name).exists():
        process = subprocess.Popen([*command, name, "--resume"], cwd=tmp_path, stderr=subprocess.DEVNULL)
        while not (tmp_path / f".{name}.part").exists() and process.poll() is None:
            time.sleep(0.002)
        try:
            process.wait(rng.uniform(0, 0.3) if kills < 6 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills > 1
    assert (tmp_path / name).read_bytes() == (tmp_path / f"uninterrupted-{name}").read_bytes()
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".tmp"}  # killed runs leave .tmp files
    assert left == {"a", "b", name, f"uninterrupted-{name}", f".{name}.journal", f".uninterrupted-{name}.journal"}
