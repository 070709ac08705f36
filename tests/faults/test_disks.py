"""Disks that fill or are read-only, for real: file systems of their own, in a mount namespace."""

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from netkit.data.dataset import ArrayDataSet
from tests.support.commands import NETKIT, TRAIN, digits_in, wait_for_an_epoch

# $1: size, or "ro"; then the command. Runs it in disk/, a file system of its own, made of start/; leaves left/
ON_A_DISK = """
mkdir disk && what=$1 && shift
if [ "$what" = ro ]; then size=100m; else size=$what; fi
mount -t tmpfs -o "size=$size" none disk && cp -r start/. disk/ || exit 99
[ "$what" = ro ] && mount -o remount,ro disk
cd disk && "$@"
code=$?
cp -r . ../left && exit $code
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with start/, of which a disk is made."""
    (tmp_path / "start").mkdir()
    return tmp_path


def on_a_disk(place: Path, what: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run netkit in a file system of that size, or a read-only one, which nobody else sees: a mount namespace."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*alone, "mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs Linux that lets a user make a mount namespace")
    shell = [*alone, "sh", "-c", ON_A_DISK, "sh", what, str(NETKIT), *command]
    done = subprocess.run(shell, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode != 99 and "Traceback" not in done.stderr, done.stderr
    return done


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    *_, last = done.stderr.splitlines()
    return last


@pytest.mark.slow
def test_a_disk_that_fills_while_a_state_is_saved_keeps_the_old_one(place: Path) -> None:
    stopped = subprocess.Popen([NETKIT, *TRAIN], cwd=place / "start", stderr=subprocess.DEVNULL)
    state = place / "start/run/training.safetensors"
    wait_for_an_epoch(place / "start", stopped)
    stopped.terminate()
    assert stopped.wait(timeout=60) == 143
    before, taken = state.read_bytes(), sum(path.stat().st_size for path in state.parent.iterdir())
    room = taken + len(before) // 2
    done = on_a_disk(place, f"{room // 1024}k", *TRAIN, "--resume")
    assert (done.returncode, last_line(done)) == (1, "netkit: run/training.safetensors: No space left on device")
    assert (place / "left/run/training.safetensors").read_bytes() == before
    assert not list((place / "left/run").glob(".*.tmp"))
    gone_on = subprocess.run([NETKIT, *TRAIN, "--resume"], cwd=place / "left", capture_output=True, text=True)
    assert gone_on.returncode == 0 and "going on after step" in gone_on.stderr


def test_a_disk_that_fills_while_rows_are_written_is_told_by_name(
    place: Path, workplace: Path, digits_data: ArrayDataSet
) -> None:
    digits_in(place / "images", digits_data, count=5000)
    (place / "start/r.csv").write_text("an earlier result\n")
    model = str(workplace / "runs/residual/model.onnx")
    for name in ("r.csv", "r.jsonl", "r.parquet"):
        shutil.rmtree(place / "left", ignore_errors=True)
        shutil.rmtree(place / "disk", ignore_errors=True)
        done = on_a_disk(place, "64k", "infer", "../images", "--model", model, "--out", name)
        assert (done.returncode, last_line(done)) == (1, f"netkit: {name}: No space left on device")
        assert {path.name: path.read_text() for path in (place / "left").iterdir()} == {"r.csv": "an earlier result\n"}


@pytest.mark.slow
def test_a_disk_that_fills_while_a_shard_is_written_keeps_the_others_to_go_on_with(
    place: Path, workplace: Path, digits_data: ArrayDataSet
) -> None:
    model = workplace / "runs/residual/model.onnx"
    digits_in(place / "images", digits_data, count=5000)
    command = ["infer", "../images", "--model", str(model), "--engine", "ray", "--workers", "2", "--out", "out"]
    done = on_a_disk(place, f"{model.stat().st_size // 1024 + 200}k", *command)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in last_line(done), done.stderr
    left = place / "left/out"
    whole = {path.name: path.stat().st_mtime_ns for path in left.glob("part-*.parquet")}
    assert 5 < len(whole) < 100 and not (left / "_SUCCESS").exists()
    gone_on = subprocess.run([NETKIT, *command, "--resume"], cwd=place / "left", capture_output=True, text=True)
    assert gone_on.returncode == 0, gone_on.stderr
    assert (left / "_SUCCESS").exists()
    assert {name: (left / name).stat().st_mtime_ns for name in whole} == whole


READ_ONLY = [
    pytest.param(
        ("train", "--arch", "residual", "--data", "digits", "--epochs", "1"),
        "--out runs/residual: cannot be made a folder",
        marks=pytest.mark.slow,
    ),
    (("train", "--arch", "residual", "--data", "digits", "--epochs", "1", "--out", "runs/residual"), "runs/residual"),
    pytest.param(("export", "--arch", "residual"), "runs/residual/model.onnx", marks=pytest.mark.slow),
    (("infer", "digit.png", "--arch", "residual", "--out", "r.csv"), ".r.csv.part"),
    (("evaluate", "runs/residual/model.onnx", "--out", "report.html"), "report.html"),
    (("sample", "images", "--data", "digits"), "images"),
]


@pytest.mark.parametrize(("command", "path"), READ_ONLY, ids=lambda given: given[0] if isinstance(given, tuple) else "")
def test_a_read_only_folder_is_told_by_name(
    place: Path, workplace: Path, digits_data: ArrayDataSet, command: tuple[str, ...], path: str
) -> None:
    if not path.startswith("--out"):
        shutil.copytree(workplace / "runs", place / "start/runs")
    Image.fromarray(digits_data.test_images[0, 0]).save(place / "start/digit.png")
    done = on_a_disk(place, "ro", *command)
    assert done.returncode in (1, 2)
    assert last_line(done).startswith(f"netkit: {path}") and last_line(done).endswith(": Read-only file system")
    kept = sorted(each.relative_to(place / "left") for each in (place / "left").rglob("*"))
    assert kept == sorted(each.relative_to(place / "start") for each in (place / "start").rglob("*"))
