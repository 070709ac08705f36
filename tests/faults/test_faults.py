"""What befalls a machine, done to it for real: kills, clocks set back, bad files, models that point elsewhere.

docs/reliability.md has the table of all of them, with those that other tests hold.
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
from tests.support.commands import NETKIT, TRAIN, Netkit, digits_in, wait_for_an_epoch
from tests.support.damage import damaged

FUTURE = 4_000_000_000  # seconds since 1970: as files look whose clock was ahead


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
    left = [
        found for found in tmp_path.iterdir() if found.suffix != ".tmp"
    ]  # the killed ones' stay until they are stale
    assert left == [path]


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


@pytest.mark.skipif(sys.platform != "linux" or usable_cores() < 2, reason="workers are forks on Linux, with two cores")
def test_a_killed_worker_costs_no_row(tmp_path: Path, workplace: Path, digits_data: ArrayDataSet) -> None:
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
    while not (workers := children.read_text().split()):
        assert run.poll() is None
        time.sleep(0.002)
    time.sleep(0.1)
    os.kill(int(workers[0]), signal.SIGKILL)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 0 and "warning: a worker process was killed; its images are processed again" in told
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
    tmp_path: Path, workplace: Path, digits_data: ArrayDataSet
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
