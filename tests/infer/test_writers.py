"""Rows are written unchanged, whatever characters their paths contain, and are counted."""

import io
import os
import subprocess
import sys

from netkit.infer.job import Outcome
from netkit.infer.output.prediction import Counts, Row
from netkit.infer.output.writers import csv_writer, jsonl_writer, table_writer
from netkit.infer.runtime.providers import CPU, CUDA
from tests.support.rows import RANKED, ROWS


def test_fewer_labels_than_top_k_leave_cells_empty() -> None:
    file = io.StringIO()
    csv_writer(file, top_k=3)([Row("a.png", RANKED[:2])])
    assert file.getvalue().splitlines()[1] == 'a.png,7,0.751235,ok,,"a,b",0.2,,'


def test_a_table_escapes_control_characters_in_paths_labels_and_messages() -> None:
    file = io.StringIO()
    write = table_writer(file, top_k=2)
    write([*ROWS, Row("a.png", (("\x1b[2Jcat\n", 0.5), ("dog", 0.25), ("cow", 0.125)), message="\x9b1m")])
    lines = file.getvalue().split("\n")
    assert len(lines) == len(ROWS) + 2 and lines[-1] == ""
    assert all(line.isprintable() for line in lines)
    assert lines[0] == "7  75.12%  a,b  20.00%  plain.png"
    assert lines[1] == "damaged  plain.png  (cannot: plain.png)"
    assert lines[2] == r"7  75.12%  a,b  20.00%  a\nb.png"
    assert lines[-2] == r"\x1b[2Jcat\n  50.00%  dog  25.00%  a.png  (\x9b1m)"


def test_csv_on_a_pipe_is_utf8_in_every_locale() -> None:
    program = "import os; from netkit.infer.output.writers import Row, stdout_writer\n"
    program += "write = stdout_writer(as_json=False, top_k=1)\n"
    program += (
        r"for name in (b'\xc3\xa9.png', b'\xff.png', b'a\nb.png'): write([Row(os.fsdecode(name), status='damaged')])"
    )
    for encoding in ("utf-8", "ascii", "cp1252"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (
            done.stdout.split(b"\n", 1)[1] == b'\xc3\xa9.png,,,damaged,\n\xff.png,,,damaged,\n"a\nb.png",,,damaged,\n'
        )


def test_json_is_one_ascii_line_per_row() -> None:
    file = io.StringIO()
    jsonl_writer(file, top_k=1)(ROWS)
    assert file.getvalue().isascii() and len(file.getvalue().splitlines()) == len(ROWS)


def test_predictions_are_counted_as_correct_by_their_true_label() -> None:
    counts = Counts({"1.png": "cat", "2.png": "dog", "3.png": "dog"}.get)
    assert counts.summary() == "0 files"
    for path, label in [("1.png", "cat"), ("2.png", "cat"), ("3.png", "dog"), ("unknown.png", "cat")]:
        counts.add([Row(path, ((label, 0.9), ("dog", 0.1)))])
    assert (counts.ok, counts.failed, counts.labelled, counts.correct) == (4, 0, 3, 2)
    assert (
        counts.summary() == "4 files; accuracy 66.67% (2 correct of the 3 images whose folder is named after a label)"
    )
    counts.add([Row("1.png", status="damaged", message="cannot be decoded")])
    assert (counts.ok, counts.failed, counts.labelled) == (4, 1, 3)
    assert counts.summary().startswith("5 files: 4 ok, 1 with an error; accuracy 66.67% (2 correct of the 3 ")


def test_counts_have_thousands_separators_and_no_accuracy_without_labelled_folders() -> None:
    counts = Counts(ok=1_234_000, failed=1_567)
    assert counts.summary() == "1,235,567 files: 1,234,000 ok, 1,567 with an error"


def test_the_summary_of_a_run_names_its_duration_its_devices_and_its_speed() -> None:
    assert str(Outcome(Counts(ok=352, failed=3), 355, 0.08, (CPU,))) == (
        "355 files in 0.08 s on the CPU (4,438 files/s): 352 ok, 3 with an error"
    )
    resumed = Outcome(Counts(ok=1000), 250, 12.4, (CPU, CUDA))
    assert str(resumed) == "1,000 files, 250 of them now, in 12 s on the CPU and CUDA (20 files/s)"
    assert str(Outcome(Counts(ok=1), 0, 0.01, (CPU,))) == "1 file"
