"""What befalls a machine, done to it for real: kills, disks that are full or read-only, clocks set back, bad files.

docs/reliability.md has the table of all of them, with those that other tests hold.
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch
from conftest import NETKIT, Netkit
from damage import damaged
from PIL import Image
from test_infer import heeding_interrupts

from nets.build import build
from nets.card import ModelCard
from nets.data.dataset import HeldDataSet
from nets.machine import usable_cores
from nets.training import checkpoint
from nets.training.state import load as load_state

FUTURE = 4_000_000_000  # seconds since 1970: as files look whose clock was ahead
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
TRAIN = ("train", "--arch", "residual", "--data", "digits", "--epochs", "12", "--out", "run")

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


def wait_for_an_epoch(folder: Path, training: "subprocess.Popen[bytes]") -> None:
    rows = folder / "run/metrics.csv"  # the state comes after the rows: with two, it has one epoch
    while not rows.exists() or len(rows.read_text().splitlines()) < 3:
        assert training.poll() is None
        time.sleep(0.005)


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    *_, last = done.stderr.splitlines()
    return last


def digits_in(folder: Path, data: HeldDataSet, *, count: int, files: int = 100) -> list[Path]:
    """`count` names of `files` pictures of digits."""
    folder.mkdir()
    paths = [folder / f"{index:06}.png" for index in range(count)]
    for index, path in enumerate(paths):
        if index < files:
            Image.fromarray(data.test_images[index, 0]).save(path)
        else:
            os.link(paths[index % files], path)
    return paths


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child uses no thread's locks
def test_of_100_kills_while_checkpoints_are_saved_each_leaves_the_last_or_the_one_before(
    tmp_path: Path, card: ModelCard
) -> None:
    """A process saves nets one after the other, each with its number in it, and tells of each when it begins."""
    path, chance, net = tmp_path / "model.safetensors", random.Random(0), build(card)
    name = next(name for name, tensor in net.state_dict().items() if tensor.is_floating_point())

    def numbered(number: int) -> None:
        with torch.no_grad():
            net.state_dict()[name].fill_(number)
        checkpoint.save(path, net, card)

    numbered(0)
    seen: set[int] = set()
    for _ in range(100):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                for number in range(1, 256):
                    os.write(writing, bytes([number]))
                    numbered(number)
            finally:
                os._exit(0)
        os.close(writing)
        time.sleep(chance.uniform(0.002, 0.1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        begun = os.read(reading, 256)[-1:]
        os.close(reading)
        loaded, _ = checkpoint.load(path)
        found = int(loaded.state_dict()[name].flatten()[0])
        last = begun[0] if begun else 0
        assert found in (last, last - 1) or (last <= 1 and found in seen), (found, last)
        seen.add(found)
    assert len(seen) > 5
    numbered(0)
    assert list(tmp_path.iterdir()) == [path]  # what the killed ones left has gone


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
    place: Path, workplace: Path, digits_data: HeldDataSet
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
    place: Path, workplace: Path, digits_data: HeldDataSet
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
    (
        ("train", "--arch", "residual", "--data", "digits", "--epochs", "1"),
        "--out runs/residual: cannot be made a folder",
    ),
    (("train", "--arch", "residual", "--data", "digits", "--epochs", "1", "--out", "runs/residual"), "runs/residual"),
    (("export", "--arch", "residual"), "runs/residual/model.onnx"),
    (("infer", "digit.png", "--arch", "residual", "--out", "r.csv"), ".r.csv.part"),
    (("evaluate", "runs/residual/model.onnx", "--out", "report.html"), "report.html"),
    (("sample", "images", "--data", "digits"), "images"),
]


@pytest.mark.parametrize(("command", "path"), READ_ONLY, ids=lambda given: given[0] if isinstance(given, tuple) else "")
def test_a_read_only_folder_is_told_by_name(
    place: Path, workplace: Path, digits_data: HeldDataSet, command: tuple[str, ...], path: str
) -> None:
    if not path.startswith("--out"):
        shutil.copytree(workplace / "runs", place / "start/runs")
    Image.fromarray(digits_data.test_images[0, 0]).save(place / "start/digit.png")
    done = on_a_disk(place, "ro", *command)
    assert done.returncode in (1, 2)
    assert last_line(done).startswith(f"netkit: {path}") and last_line(done).endswith(": Read-only file system")
    kept = sorted(each.relative_to(place / "left") for each in (place / "left").rglob("*"))
    assert kept == sorted(each.relative_to(place / "start") for each in (place / "start").rglob("*"))


def ready(process: "subprocess.Popen[str]") -> None:
    """Wait until it handles SIGTERM: it is netkit then, and no more an interpreter that starts."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


COMMANDS = [
    ("train", "--arch", "residual", "--data", "digits", "--out", "run"),
    ("export", "--arch", "residual", "--out", "m.onnx"),
    ("import", "resnet.pth"),
    ("infer", "images", "--arch", "residual"),
    ("infer", "images", "--arch", "residual", "--out", "r.csv"),
    ("verify", "runs/residual/model.onnx"),
    ("evaluate", "runs/residual/model.onnx", "--corrupt", "--out", "report.html"),
    ("bench", "runs/residual/model.onnx"),
    ("sample", "sampled", "--data", "digits"),
    ("nets",),
    ("doctor",),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sees in /proc when a command handles signals")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:1] + command[4:5]))
def test_each_command_ends_at_a_signal_with_its_code_and_without_a_traceback(
    tmp_path: Path, workplace: Path, digits_data: HeldDataSet, command: tuple[str, ...]
) -> None:
    shutil.copytree(workplace / "runs", tmp_path / "runs")
    digits_in(tmp_path / "images", digits_data, count=20_000)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    chance, ends = random.Random(0), []
    for number, code in STOPPED.items():
        for wait_s in (0, *(chance.uniform(0, 3) for _ in range(4))):
            process = subprocess.Popen(
                [NETKIT, *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                preexec_fn=heeding_interrupts,
            )  # fmt: skip
            ready(process)
            time.sleep(wait_s)
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
            assert "Traceback" not in told, told
            # SIGINT that comes when all is done and put away ends the process without a word
            # and doctor exits with 1 where something is wrong
            assert process.returncode in (code, 0, -number, *((1,) if command == ("doctor",) else ())), told
            ends.append(process.returncode)
    assert ends.count(130) >= 1 and ends.count(143) >= 1, ends
    assert not (tmp_path / "m.onnx").exists() or 0 in ends
    assert not (tmp_path / "r.csv").exists() or 0 in ends


@pytest.mark.slow
def test_a_clock_that_was_set_back_loses_no_work(tmp_path: Path, netkit: Netkit) -> None:
    """To a run whose clock was set back, the files that it left look as if they came from the future."""
    process = subprocess.Popen([NETKIT, *TRAIN], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for_an_epoch(tmp_path, process)
    process.kill()
    process.wait()
    done = load_state(tmp_path / "run/training.safetensors")[0].step
    assert done
    for path in (tmp_path / "run", *(tmp_path / "run").iterdir()):
        os.utime(path, (FUTURE, FUTURE))
    gone_on = netkit(*TRAIN, "--resume")
    assert gone_on.returncode == 0 and f"going on after step {done} of 84" in gone_on.stderr
    assert netkit(*(word if word != "run" else "whole" for word in TRAIN)).returncode == 0
    runs = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("where", ["../secret.bin", "/absolute", "link.bin"])
@pytest.mark.parametrize("command", ["verify", "infer", "evaluate"])
def test_a_model_that_points_at_other_files_never_has_them_read(
    netkit: Netkit, tmp_path: Path, workplace: Path, where: str, command: str
) -> None:
    secret = tmp_path / "secret.bin"
    (tmp_path / "models").mkdir()
    (tmp_path / "models/link.bin").symlink_to(secret)
    proto = onnx.load(workplace / "runs/residual/model.onnx")
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret.write_bytes(tensor.raw_data)  # with these bytes it would be the very same model
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret) if where == "/absolute" else where)
    (tmp_path / "models/model.onnx").write_bytes(proto.SerializeToString())
    inputs = ("digit.png", "--model") if command == "infer" else ()
    done = netkit(command, *inputs, "models/model.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"netkit: models/model.onnx: tensor '{tensor.name}' lies in another file")


def test_two_onnx_runtimes_are_told_with_what_mends_it(netkit: Netkit, tmp_path: Path) -> None:
    """As pip leaves them: one folder of files, two of what is known about them."""
    for package in ("onnxruntime", "onnxruntime_gpu"):
        about = tmp_path / f"site/{package}-1.31.1.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.31.1\n")
    done = netkit("doctor", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1 and "onnxruntime 1.31.1, onnxruntime-gpu 1.31.1: one hides the other" in done.stdout
    assert "ONNX Runtime: pip uninstall -y onnxruntime onnxruntime-gpu && pip install" in done.stderr


@pytest.mark.skipif(sys.platform != "linux" or usable_cores() < 2, reason="helpers are forks, one for each other core")
def test_a_helper_that_is_killed_costs_no_row(tmp_path: Path, workplace: Path, digits_data: HeldDataSet) -> None:
    paths = digits_in(tmp_path / "images", digits_data, count=20_000)
    command: list[str | Path] = [
        NETKIT,
        "infer",
        "images",
        "--model",
        workplace / "runs/residual/model.onnx",
        "--threads",
        "2",
        "--out",
    ]
    run = subprocess.Popen([*command, "r.csv"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while not (helpers := children.read_text().split()):
        assert run.poll() is None
        time.sleep(0.002)
    time.sleep(0.1)
    os.kill(int(helpers[0]), signal.SIGKILL)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 0 and "a process that helped was killed by signal 9; going on" in told
    rows = rows_of(tmp_path / "r.csv")
    assert [row[0] for row in rows] == [f"images/{path.name}" for path in paths]
    subprocess.run([*command, "whole.csv"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "r.csv").read_bytes()


def spoiled(content: bytes, chance: random.Random) -> bytes:
    """What a copy, a disk or a hoax makes of a file."""
    cut = content[: chance.randrange(1, len(content) - 12)]
    return chance.choice([cut, damaged(content, chance), b"", chance.randbytes(300), b"<html>404 Not Found</html>"])


@pytest.mark.slow
def test_one_bad_file_in_a_hundred_of_100_000_costs_no_good_one_its_row(
    tmp_path: Path, workplace: Path, digits_data: HeldDataSet
) -> None:
    paths = digits_in(tmp_path / "images", digits_data, count=100_000)
    command: list[str | Path] = [NETKIT, "infer", "images", "--model", workplace / "runs/residual/model.onnx", "--out"]
    subprocess.run([*command, "good.csv"], cwd=tmp_path, check=True, capture_output=True)
    chance = random.Random(0)
    bad = chance.sample(range(100_000), 1000)
    for index in bad:
        content = paths[index].read_bytes()
        paths[index].unlink()  # its content has other names, too
        paths[index].write_bytes(spoiled(content, chance))
    done = subprocess.run([*command, "bad.csv"], cwd=tmp_path, capture_output=True, text=True)
    good, found = rows_of(tmp_path / "good.csv"), rows_of(tmp_path / "bad.csv")
    failed = {index for index, row in enumerate(found) if row[3] != "ok"}
    assert done.returncode == 1 and f"100,000 files, {len(failed):,} of them with an error" in done.stderr
    assert failed <= set(bad) and len(failed) > 950
    # of the others some damage lies behind the image's end, and its pixels are what they were
    assert [row for index, row in enumerate(found) if index not in failed] == [
        row for index, row in enumerate(good) if index not in failed
    ]
