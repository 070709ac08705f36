"""Killed processes, clocks set back, damaged images, and models that refer to other files.

docs/reliability.md lists all tests of this kind.
"""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch

from netkit.core.model_card import ModelCard
from netkit.core.system import usable_cores
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import build
from netkit.nets.training import checkpoint
from netkit.nets.training.state import load as load_state
from tests.support.commands import NETKIT, TRAIN, Netkit, wait_for_an_epoch, write_digits
from tests.support.damage import damaged

FUTURE_S = 4_000_000_000  # Unix time of files that were written before the clock was set back


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child uses no lock of another thread
def test_a_kill_while_saving_leaves_the_last_checkpoint_or_the_one_before(tmp_path: Path, card: ModelCard) -> None:
    """A child saves networks in a loop. Each contains its index, which the child reports before it saves."""
    path, rng, net = tmp_path / "model.safetensors", random.Random(0), build(card)
    name = next(name for name, tensor in net.state_dict().items() if tensor.is_floating_point())

    def save(index: int) -> None:
        with torch.no_grad():
            net.state_dict()[name].fill_(index)
        checkpoint.save(path, net, card)

    save(0)
    loaded_indices: set[int] = set()
    for _ in range(100):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                for index in range(1, 256):
                    os.write(writing, bytes([index]))
                    save(index)
            finally:
                os._exit(0)
        os.close(writing)
        time.sleep(rng.uniform(0.002, 0.1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        started = os.read(reading, 256)[-1:]
        os.close(reading)
        loaded_net, _ = checkpoint.load(path)
        loaded = int(loaded_net.state_dict()[name].flatten()[0])
        last = started[0] if started else 0
        assert loaded in (last, last - 1) or (last <= 1 and loaded in loaded_indices), (loaded, last)
        loaded_indices.add(loaded)
    assert len(loaded_indices) > 5
    save(0)
    # temporary files of killed processes stay until they are stale
    assert [file for file in tmp_path.iterdir() if file.suffix != ".tmp"] == [path]


@pytest.mark.slow
def test_resume_works_after_the_clock_was_set_back(tmp_path: Path, netkit: Netkit) -> None:
    """The files of the run then have times in the future."""
    process = subprocess.Popen([NETKIT, *TRAIN], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for_an_epoch(tmp_path, process)
    process.kill()
    process.wait()
    step = load_state(tmp_path / "run/training.safetensors")[0].step
    assert step
    for path in (tmp_path / "run", *(tmp_path / "run").iterdir()):
        os.utime(path, (FUTURE_S, FUTURE_S))
    resumed = netkit(*TRAIN, "--resume")
    assert resumed.returncode == 0 and f"resuming after step {step} of 84" in resumed.stderr
    assert netkit(*(argument if argument != "run" else "uninterrupted" for argument in TRAIN)).returncode == 0
    runs = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "uninterrupted")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("location", ["../secret.bin", "/absolute", "link.bin"])
@pytest.mark.parametrize("command", ["verify", "infer", "evaluate"])
def test_a_model_with_external_data_is_rejected(
    netkit: Netkit, tmp_path: Path, workspace: Path, location: str, command: str
) -> None:
    secret = tmp_path / "secret.bin"
    (tmp_path / "models").mkdir()
    (tmp_path / "models/link.bin").symlink_to(secret)
    proto = onnx.load(workspace / "runs/residual/model.onnx")
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret.write_bytes(tensor.raw_data)  # loading the external data would give the original model
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret) if location == "/absolute" else location)
    (tmp_path / "models/model.onnx").write_bytes(proto.SerializeToString())
    inputs = ("digit.png", "--model") if command == "infer" else ()
    done = netkit(command, *inputs, "models/model.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"netkit: models/model.onnx: tensor '{tensor.name}' is external data")


@pytest.mark.skipif(
    sys.platform != "linux" or usable_cores() < 2, reason="needs Linux and two cores: only then are workers processes"
)
def test_no_row_is_lost_if_a_worker_is_killed(tmp_path: Path, workspace: Path, digits_data: ArrayDataSet) -> None:
    paths = write_digits(tmp_path / "images", digits_data, count=20_000)
    command: list[str | Path] = [
        NETKIT,
        "infer",
        "images",
        "--model",
        workspace / "runs/residual/model.onnx",
        "--threads",
        "2",
        "--out",
    ]
    run = subprocess.Popen([*command, "r.csv"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while not (workers := children.read_text().split()):
        assert run.poll() is None
        time.sleep(0.002)
    time.sleep(0.1)
    os.kill(int(workers[0]), signal.SIGKILL)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 0 and "warning: a worker process was killed; its images are processed again" in stderr
    rows = rows_of(tmp_path / "r.csv")
    assert [row[0] for row in rows] == [f"images/{path.name}" for path in paths]
    subprocess.run([*command, "uninterrupted.csv"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "uninterrupted.csv").read_bytes() == (tmp_path / "r.csv").read_bytes()


def unreadable(content: bytes, rng: random.Random) -> bytes:
    """Truncate or damage a file, empty it, or replace it by random bytes or by HTML."""
    truncated = content[: rng.randrange(1, len(content) - 12)]
    return rng.choice([truncated, damaged(content, rng), b"", rng.randbytes(300), b"<html>404 Not Found</html>"])


@pytest.mark.slow
def test_unreadable_files_do_not_change_the_rows_of_other_files(
    tmp_path: Path, workspace: Path, digits_data: ArrayDataSet
) -> None:
    paths = write_digits(tmp_path / "images", digits_data, count=100_000)
    command: list[str | Path] = [NETKIT, "infer", "images", "--model", workspace / "runs/residual/model.onnx", "--out"]
    subprocess.run([*command, "good.csv"], cwd=tmp_path, check=True, capture_output=True)
    rng = random.Random(0)
    bad = rng.sample(range(100_000), 1000)
    for index in bad:
        content = paths[index].read_bytes()
        paths[index].unlink()  # other paths are hard links to the same content
        paths[index].write_bytes(unreadable(content, rng))
    done = subprocess.run([*command, "bad.csv"], cwd=tmp_path, capture_output=True, text=True)
    good_rows, rows = rows_of(tmp_path / "good.csv"), rows_of(tmp_path / "bad.csv")
    failed = {index for index, row in enumerate(rows) if row[3] != "ok"}
    assert done.returncode == 1 and f": {100_000 - len(failed):,} ok, {len(failed):,} with an error" in done.stderr
    assert failed <= set(bad) and len(failed) > 950
    # damage after the end of the image does not change its pixels
    assert [row for index, row in enumerate(rows) if index not in failed] == [
        row for index, row in enumerate(good_rows) if index not in failed
    ]
