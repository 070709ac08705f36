"""`netkit infer`: paths on stdin, unusual file names, limits, signals and resume."""

import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.data.dataset import ArrayDataSet
from tests.support.commands import NETKIT, Netkit, restore_sigint
from tests.support.rows import NAMES


@pytest.fixture(scope="module")
def model(workspace: Path) -> Path:
    return workspace / "runs/residual/model.onnx"


@pytest.fixture
def digit(tmp_path: Path, digits_data: ArrayDataSet) -> Path:
    Image.fromarray(digits_data.test_images[0, 0]).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def infer(*arguments: str | Path, cwd: Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([NETKIT, "infer", *arguments], cwd=cwd, input=stdin, capture_output=True, timeout=300)


def link_unusual_names(folder: Path, digit: Path) -> list[bytes]:
    """Link the same digit under each of NAMES in two folders; return the paths."""
    names = [os.fsencode(name).replace(b"/", b"") for name in NAMES if name]
    paths = []
    for subfolder in (b"a", b"b"):
        (folder / os.fsdecode(subfolder)).mkdir()
        for name in names:
            path = subfolder + b"/" + name
            os.link(digit, os.path.join(os.fsencode(folder), path))
            paths.append(path)
    return paths


def test_nul_separated_paths_on_stdin_are_written_byte_for_byte(tmp_path: Path, digit: Path, model: Path) -> None:
    paths = link_unusual_names(tmp_path, digit)
    done = infer("-", "-0", "--model", model, cwd=tmp_path, stdin=b"\0".join(paths))
    assert done.returncode == 0, done.stderr
    _, *rows = csv.reader(io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline=""))
    assert [os.fsencode(row[0]) for row in rows] == paths
    assert len({row[1] for row in rows}) == 1
    as_json = infer("-", "-0", "--model", model, "--json", cwd=tmp_path, stdin=b"\0".join(paths) + b"\0")
    assert [os.fsencode(json.loads(line)["path"]) for line in as_json.stdout.splitlines()] == paths


def test_paths_on_stdin_take_the_position_of_the_dash(tmp_path: Path, digit: Path, model: Path) -> None:
    done = infer("-", digit.name, "--model", model, "--json", cwd=tmp_path, stdin=b"digit.png\n\nno file\n.\ndigit.png")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["digit.png", "no file", ".", "digit.png", "digit.png"]
    assert [row["status"] for row in rows] == ["ok", "not-found", "unreadable", "ok", "ok"]
    assert rows[2]["message"] == "is a folder; pass it as an argument, or list the files in it"
    assert done.returncode == 1


def test_a_list_that_nul_bytes_separate_is_rejected_without_the_option_for_it(
    tmp_path: Path, digit: Path, model: Path
) -> None:
    done = infer("-", "--model", model, cwd=tmp_path, stdin=b"digit.png\0digit.png\0")
    assert done.returncode == 2
    assert done.stderr.endswith(b"netkit: -: NUL bytes separate the paths on stdin; pass -0 as well\n")
    stray = infer("-", "--model", model, "--json", cwd=tmp_path, stdin=b"digit.png\ndi\0git.png\n")
    rows = [json.loads(line) for line in stray.stdout.splitlines()]
    assert [(row["status"], row["message"]) for row in rows] == [
        ("ok", ""),
        ("unreadable", "cannot be read: the path contains a NUL byte"),
    ]


def test_a_table_or_a_list_with_another_name_is_named_for_what_it_is(tmp_path: Path, digit: Path, model: Path) -> None:
    (tmp_path / "table").write_text("path,label\ndigit.png,1\n")
    (tmp_path / "list.txt").write_text("digit.png\n")
    done = infer("table", "list.txt", digit.name, "--model", model, "--json", cwd=tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["not-an-image", "not-an-image", "ok"]
    hint = "to read paths from it, name it .csv or .tsv, or run: netkit infer - < FILE"
    assert [row["message"] for row in rows[:2]] == [
        f"a text file, not an image; it begins with 'path,label\\ndigit.png,1'; {hint}",
        f"a text file, not an image; it begins with 'digit.png'; {hint}",
    ]


def test_more_labels_than_the_model_has_are_rejected(tmp_path: Path, digit: Path, model: Path) -> None:
    done = infer(digit, "--model", model, "--top-k", "11", cwd=tmp_path)
    assert done.stderr.endswith(b"netkit: --top-k 11: must be at most 10, the number of labels of the model\n")
    assert (done.returncode, done.stdout) == (2, b"")


def test_stdin_without_paths_is_an_error(tmp_path: Path, model: Path) -> None:
    done = infer("-", "--model", model, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"netkit: -: stdin contains no paths; write paths to it, e.g. ")


def test_a_command_that_classified_no_image_is_not_suggested_again(tmp_path: Path, digit: Path, model: Path) -> None:
    failed = infer("none.png", "--model", model, cwd=tmp_path)
    assert failed.returncode == 1 and b"next: " not in failed.stderr
    partly_failed = infer("none.png", digit, "--model", model, cwd=tmp_path)
    assert partly_failed.returncode == 1 and b"next: " in partly_failed.stderr


def test_a_closed_pipe_on_stdout_ends_infer_without_an_error(tmp_path: Path, digit: Path, model: Path) -> None:
    for index in range(2000):
        os.link(digit, tmp_path / f"{index}.png")
    command = f"{NETKIT} infer . --model {model} --batch-size 1 | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "path,label,probability,status,message\n")
    assert "Traceback" not in done.stderr and "rror" not in done.stderr


def test_files_at_a_limit_are_ok_and_files_above_it_are_too_large(
    tmp_path: Path, digit: Path, model: Path, netkit: Netkit
) -> None:
    size = digit.stat().st_size
    for option, value, status in [
        ("--max-bytes", size - 1, "too-large"), ("--max-bytes", size, "ok"),
        ("--max-pixels", 28 * 28 - 1, "too-large"), ("--max-pixels", 28 * 28, "ok"),
    ]:  # fmt: skip
        done = netkit("infer", digit, "--model", model, "--json", option, str(value))
        assert json.loads(done.stdout)["status"] == status


def test_resume_needs_out_and_does_nothing_after_a_finished_run(
    tmp_path: Path, digit: Path, model: Path, netkit: Netkit
) -> None:
    arguments = ("infer", digit, "--model", model)
    assert "--resume requires --out, the results to continue" in netkit(*arguments, "--resume").stderr
    assert netkit(*arguments, "--out", "r.csv", "--resume").returncode == 0  # no run to resume: starts a new one
    content = (tmp_path / "r.csv").read_bytes()
    done = netkit(*arguments, "--out", "r.csv", "--resume")
    assert done.returncode == 0
    assert "r.csv: this run is already complete\n" in done.stderr
    assert (tmp_path / "r.csv").read_bytes() == content


def test_old_statuses_are_the_names_of_version_0_1_and_cannot_be_mixed_with_new_ones(
    tmp_path: Path, digit: Path, model: Path, netkit: Netkit
) -> None:
    arguments = ("infer", digit.name, "missing.png", "--model", model, "--out", "r.csv")
    assert netkit(*arguments, "--old-statuses").returncode == 1
    with open(tmp_path / "r.csv") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok", "vanished"]
    resumed = netkit(*arguments, "--resume")
    assert (resumed.returncode, "started with old-statuses True" in resumed.stderr) == (2, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_can_be_resumed_to_the_same_results(
    tmp_path: Path, digit: Path, model: Path, number: int, code: int
) -> None:
    for index in range(3000):
        os.link(digit, tmp_path / f"{index}.png")
    common: list[str | Path] = [NETKIT, "infer", ".", "--model", model, "--batch-size", "1", "--out"]
    subprocess.run([*common, "uninterrupted.csv"], cwd=tmp_path, check=True, capture_output=True)
    program = "import sys; from netkit.cli import cli; from netkit.infer.output import results_file\n"
    program += "results_file.SAVE_EVERY_S = 0; cli(sys.argv[1:])"
    slow = [sys.executable, "-c", program, *map(str, common[1:]), "r.csv"]
    process = subprocess.Popen(slow, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=restore_sigint)
    journal = tmp_path / ".r.csv.journal"
    while not (journal.exists() and json.loads(journal.read_text())["counts"]["ok"] > 5):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "rows are kept; continue with --resume" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "r.csv").exists()
    done = subprocess.run([*common, "r.csv", "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3,001 files" in done.stderr
    assert (tmp_path / "r.csv").read_bytes() == (tmp_path / "uninterrupted.csv").read_bytes()
    assert not (tmp_path / ".r.csv.part").exists()


def test_the_error_for_a_full_disk_names_the_results_file(tmp_path: Path, digit: Path, model: Path) -> None:
    for index in range(500):
        os.link(digit, tmp_path / f"{index}.png")

    def limit_file_size() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write() then raises OSError, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    done = subprocess.run(
        [NETKIT, "infer", ".", "--model", model, "--out", "r.csv"],
        cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit_file_size,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "netkit: r.csv: File too large"
    assert not list(tmp_path.glob("*r.csv*")) and not list(tmp_path.glob(".r.csv*"))


PREDICT = """
import resource, sys, pathlib
from dataclasses import replace
import numpy as np
from netkit.infer.runtime.io_binding import Bindings
from netkit.infer.model import onnx_file
from netkit.infer.output.prediction import rows_of
from netkit.infer.pipeline.batches import predict
from netkit.images.decoder import Decoder
from netkit.infer.runtime.session import open_session
session = open_session(onnx_file.read(pathlib.Path(sys.argv[1])), device="cpu", threads=1)
if "fixed" in sys.argv:
    session = replace(session, bindings=Bindings(session.runtime, session.card, "cpu"))
images = np.random.default_rng(0).integers(0, 256, (6001, 28, 28), np.uint8)
session.run(images[:1, None])
if "limited" in sys.argv:
    for _ in range(2):
        np.ones(30_000_000, np.uint8)  # leaves free memory for small allocations besides those of ONNX Runtime
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 190_000_000, -1))
sizes, run = [], type(session).run
def recording_run(self, images_u8, *, size=None):
    sizes.append(size)
    return run(self, images_u8, size=size)
type(session).run = recording_run
for batch in predict(session, images, decoder=Decoder(session.card.input), batch_size=6000, workers=1):
    for row in rows_of(batch, session.card.labels, top_k=1):
        print(row.status, row.label, round(row.probability, 5))
print(*sizes, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize("options", [(), ("fixed",)], ids=["dynamic", "padded, as on CUDA"])
def test_a_batch_that_exceeds_memory_is_halved_with_the_same_rows(model: Path, options: tuple[str, ...]) -> None:
    """The last batch has one image. It is padded if batches have fixed sizes."""
    rows, sizes = {}, {}
    for memory in ("unlimited", "limited"):
        program = [sys.executable, "-c", PREDICT, model, memory, *options]
        done = subprocess.run(program, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows[memory], sizes[memory] = done.stdout.splitlines(), done.stderr.split()
    assert len(rows["unlimited"]) == 6001
    assert rows["limited"] == rows["unlimited"]
    assert sizes["unlimited"] == ["6000", "6000"] and "3000" in sizes["limited"]


def test_batch_size_and_threads_do_not_change_the_rows(
    tmp_path: Path, model: Path, netkit: Netkit, digits_data: ArrayDataSet
) -> None:
    for index, image in enumerate(digits_data.test_images[:50]):
        Image.fromarray(image[0]).save(tmp_path / f"{index}.png")
    runs = []
    for options in (("--batch-size", "1"), ("--batch-size", "7", "--threads", "1"), ("--threads", "64")):
        done = netkit("infer", ".", "--model", model, *options)
        runs.append([row.split(",") for row in done.stdout.splitlines()[1:]])
    for rows in runs[1:]:
        assert [(row[0], row[1]) for row in rows] == [(row[0], row[1]) for row in runs[0]]
        np.testing.assert_allclose([float(row[2]) for row in rows], [float(row[2]) for row in runs[0]], atol=2e-6)
