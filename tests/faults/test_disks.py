"""Full and read-only disks: tmpfs file systems in a mount namespace."""

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from netkit.data.dataset import ArrayDataSet
from tests.support.commands import NETKIT, TRAIN, wait_for_an_epoch, write_digits

# Arguments: a size or "ro", then the command. Copies start/ to a new file system at disk/, runs the command there, and
# copies disk/ to left/.
RUN_ON_DISK = """
mkdir disk && disk=$1 && shift
if [ "$disk" = ro ]; then size=100m; else size=$disk; fi
mount -t tmpfs -o "size=$size" none disk && cp -r start/. disk/ || exit 99
[ "$disk" = ro ] && mount -o remount,ro disk
cd disk && "$@"
code=$?
cp -r . ../left && exit $code
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an empty start/, whose content `run_on_disk` copies to the disk."""
    (tmp_path / "start").mkdir()
    return tmp_path


def run_on_disk(folder: Path, disk: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run netkit in a file system of size `disk`, or in a read-only one if `disk` is "ro"."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*namespace, "mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a Linux on which users can create mount namespaces")
    shell = [*namespace, "sh", "-c", RUN_ON_DISK, "sh", disk, str(NETKIT), *command]
    done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode != 99 and "Traceback" not in done.stderr, done.stderr
    return done


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_training_state_survives_a_disk_that_fills_while_it_is_saved(folder: Path) -> None:
    stopped = subprocess.Popen([NETKIT, *TRAIN], cwd=folder / "start", stderr=subprocess.DEVNULL)
    state = folder / "start/run/training.safetensors"
    wait_for_an_epoch(folder / "start", stopped)
    stopped.terminate()
    assert stopped.wait(timeout=60) == 143
    before, used_bytes = state.read_bytes(), sum(path.stat().st_size for path in state.parent.iterdir())
    disk_bytes = used_bytes + len(before) // 2
    done = run_on_disk(folder, f"{disk_bytes // 1024}k", *TRAIN, "--resume")
    assert (done.returncode, last_line(done)) == (1, "netkit: run/training.safetensors: No space left on device")
    assert (folder / "left/run/training.safetensors").read_bytes() == before
    assert not list((folder / "left/run").glob(".*.tmp"))
    resumed = subprocess.run([NETKIT, *TRAIN, "--resume"], cwd=folder / "left", capture_output=True, text=True)
    assert resumed.returncode == 0 and "resuming after step" in resumed.stderr


def test_error_names_the_results_file_if_the_disk_is_full(
    folder: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    write_digits(folder / "images", digits_data, count=5000)
    (folder / "start/r.csv").write_text("an earlier result\n")
    model = str(workspace / "runs/residual/model.onnx")
    for name in ("r.csv", "r.jsonl", "r.parquet"):
        shutil.rmtree(folder / "left", ignore_errors=True)
        shutil.rmtree(folder / "disk", ignore_errors=True)
        done = run_on_disk(folder, "64k", "infer", "../images", "--model", model, "--out", name)
        assert (done.returncode, last_line(done)) == (1, f"netkit: {name}: No space left on device")
        assert {path.name: path.read_text() for path in (folder / "left").iterdir()} == {"r.csv": "an earlier result\n"}


@pytest.mark.slow
def test_resume_computes_only_the_missing_shards_after_a_full_disk(
    folder: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    model = workspace / "runs/residual/model.onnx"
    write_digits(folder / "images", digits_data, count=5000)
    command = ["infer", "../images", "--model", str(model), "--engine", "ray", "--workers", "2", "--out", "out"]
    done = run_on_disk(folder, f"{model.stat().st_size // 1024 + 200}k", *command)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in last_line(done), done.stderr
    left = folder / "left/out"
    complete = {path.name: path.stat().st_mtime_ns for path in left.glob("part-*.parquet")}
    assert 5 < len(complete) < 100 and not (left / "_SUCCESS").exists()
    resumed = subprocess.run([NETKIT, *command, "--resume"], cwd=folder / "left", capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert (left / "_SUCCESS").exists()
    assert {name: (left / name).stat().st_mtime_ns for name in complete} == complete


READ_ONLY = [
    pytest.param(
        ("train", "--arch", "residual", "--data", "digits", "--no-export-check"),
        "--out runs/residual: the folder cannot be created",
        marks=pytest.mark.slow,
    ),
    (
        ("train", "--arch", "residual", "--data", "digits", "--no-export-check", "--out", "runs/residual"),
        "runs/residual",
    ),
    pytest.param(("export", "--arch", "residual"), "runs/residual/model.onnx", marks=pytest.mark.slow),
    (("infer", "digit.png", "--arch", "residual", "--out", "r.csv"), "r.csv"),
    (("evaluate", "runs/residual/model.onnx", "--out", "report.html"), "report.html"),
    (("sample", "images", "--data", "digits"), "images"),
]


@pytest.mark.parametrize(("command", "path"), READ_ONLY, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_error_names_the_path_if_the_file_system_is_read_only(
    folder: Path, workspace: Path, digits_data: ArrayDataSet, command: tuple[str, ...], path: str
) -> None:
    if not path.startswith("--out"):
        shutil.copytree(workspace / "runs", folder / "start/runs")
    Image.fromarray(digits_data.test_images[0, 0]).save(folder / "start/digit.png")
    done = run_on_disk(folder, "ro", *command)
    assert done.returncode in (1, 2)
    assert last_line(done).startswith(f"netkit: {path}")
    assert last_line(done).endswith((": Read-only file system", "is not writable; pass another one with --out"))
    left = sorted(path.relative_to(folder / "left") for path in (folder / "left").rglob("*"))
    assert left == sorted(path.relative_to(folder / "start") for path in (folder / "start").rglob("*"))
