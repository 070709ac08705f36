"""Rows come back from their files as they were, whatever a file is called; and a tally counts them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infer.rows import Row, Tally, csv_writer, jsonl_writer, results_file, table_writer
from nets.errors import UsageError

NAMES = [
    "plain.png", "a\nb.png", "a\rb.png", "a\r\nb.png", "a,b;c.png", 'a"b".png', "it's.png", "=1+1.png", "<b>&amp;",
    "[red]x[/red].png", " a\t.png", "\x1b[2J\x07.png", "日本é😀", "\u2028.png", os.fsdecode(b"\xff\xfe\x80.png"), "",
]  # fmt: skip
COLUMNS = ["path", "label", "probability", "status", "message"]
MORE_COLUMNS = [*COLUMNS, "label_2", "probability_2", "label_3", "probability_3"]

RANKED = (("7", 0.7512345678), ("a,b", 0.2), ("1", 1e-9))
ROWS = [row for name in NAMES for row in (Row(name, RANKED), Row(name, status="damaged", message=f"cannot: {name}"))]


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
        with results_file(tmp_path / name, top_k=top_k) as write:
            for row in ROWS:
                write(row)
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


def test_fewer_labels_than_asked_for_leave_cells_empty() -> None:
    file = io.StringIO()
    csv_writer(file, top_k=3)(Row("a.png", RANKED[:2]))
    assert file.getvalue().splitlines()[1] == 'a.png,7,0.751235,ok,,"a,b",0.2,,'


class Full(Exception):
    pass


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
@pytest.mark.parametrize("fault", [Full, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_no_results_file_and_keeps_an_earlier_one(
    tmp_path: Path, name: str, fault: type[BaseException]
) -> None:
    path = tmp_path / name
    for earlier in (None, b"earlier results"):
        if earlier:
            path.write_bytes(earlier)
        with pytest.raises(fault), results_file(path, top_k=1) as write:
            write(Row("a.png", RANKED))
            assert path.exists() == bool(earlier)
            raise fault
        assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == ({name: earlier} if earlier else {})


def test_a_results_file_takes_the_place_of_an_earlier_one_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("earlier results, much longer than the new ones, which must not show behind them" * 9)
    with results_file(path, top_k=1) as write:
        write(Row("a.png", RANKED))
    assert path.read_text() == "path,label,probability,status,message\na.png,7,0.751235,ok,\n"
    assert os.listdir(tmp_path) == ["r.csv"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("r.txt", "--out {folder}/r.txt: results are written as .csv or .jsonl"),
        ("r", "--out {folder}/r: results are written as .csv or .jsonl"),
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
    with pytest.raises(UsageError) as caught, results_file(tmp_path / name, top_k=1):
        pytest.fail("the writer was handed out")
    assert str(caught.value) == says.format(folder=tmp_path)


def test_a_table_shows_no_control_character_of_path_label_or_message() -> None:
    file = io.StringIO()
    write = table_writer(file, top_k=2)
    for row in ROWS:
        write(row)
    write(Row("a.png", (("\x1b[2Jcat\n", 0.5), ("dog", 0.25), ("cow", 0.125)), message="\x9b1m"))
    lines = file.getvalue().split("\n")
    assert len(lines) == len(ROWS) + 2 and lines[-1] == ""
    assert all(line.isprintable() for line in lines)
    assert lines[0] == "7  75.12%  a,b  20.00%  plain.png"
    assert lines[1] == "damaged  plain.png  (cannot: plain.png)"
    assert lines[2] == r"7  75.12%  a,b  20.00%  a\nb.png"
    assert lines[-2] == r"\x1b[2Jcat\n  50.00%  dog  25.00%  a.png  (\x9b1m)"


def test_csv_on_a_pipe_is_utf8_whatever_the_locale_says() -> None:
    program = "import os; from infer.rows import Row, stdout_writer\n"
    program += "write = stdout_writer(as_json=False, top_k=1)\n"
    program += (
        r"for name in (b'\xc3\xa9.png', b'\xff.png', b'a\nb.png'): write(Row(os.fsdecode(name), status='damaged'))"
    )
    for encoding in ("utf-8", "ascii", "cp1252"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (
            done.stdout.split(b"\n", 1)[1] == b'\xc3\xa9.png,,,damaged,\n\xff.png,,,damaged,\n"a\nb.png",,,damaged,\n'
        )


def test_json_on_a_pipe_is_one_ascii_line_a_row() -> None:
    file = io.StringIO()
    write = jsonl_writer(file, top_k=1)
    for row in ROWS:
        write(row)
    assert file.getvalue().isascii() and len(file.getvalue().splitlines()) == len(ROWS)


def test_a_tally_judges_predictions_by_the_folder_that_a_file_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat").mkdir()
    monkeypatch.chdir(tmp_path / "cat")
    tally = Tally(frozenset({"cat", "dog"}))
    assert str(tally) == "0 files"
    for path, label in [
        ("in/cat/1.png", "cat"),
        ("in/dog/2.png", "cat"),
        ("here.png", "cat"),  # the current folder is called cat
        ("../cat/4.png", "dog"),
        ("in/cow/5.png", "dog"),  # not judged: no label of the model
        ("in/cat/more/6.png", "cat"),  # not judged: the folder itself is what counts
    ]:
        tally.add(Row(path, ((label, 0.9), ("dog", 0.1))))
    assert (tally.ok, tally.failed, tally.judged, tally.right) == (6, 0, 4, 2)
    assert str(tally) == "6 files; accuracy 50.00% (2 of 4 in folders named like a label)"
    tally.add(Row("in/cat/7.png", status="damaged", message="cannot be decoded"))
    assert (tally.ok, tally.failed, tally.judged) == (6, 1, 4)
    assert str(tally).startswith("7 files, 1 of them with an error; accuracy 50.00% (2 of 4 ")


def test_a_tally_of_many_separates_thousands_and_gives_no_accuracy_without_labelled_folders() -> None:
    assert str(Tally(frozenset("01"), ok=1_234_000, failed=1_567)) == "1,235,567 files, 1,567 of them with an error"
