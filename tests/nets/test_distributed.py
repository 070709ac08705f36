"""Training in several processes: shards cover each batch once, and the weights equal those of one process."""

import csv
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from netkit.core.errors import UsageError
from netkit.nets.training.distributed import SINGLE_PROCESS, Ranks, from_environment, process_group
from netkit.nets.training.state import load as load_state
from tests.support.waiting import wait_until


def test_shards_contain_every_index_once() -> None:
    for world_size in (1, 2, 3, 8):
        indices = torch.randperm(128)
        shards = [Ranks(rank, world_size, rank, world_size).shard(indices) for rank in range(world_size)]
        assert all(count == len(shard) for shard, count in shards)
        assert torch.equal(torch.cat([shard for shard, _ in shards]).sort().values, torch.arange(128))


def test_ranks_with_fewer_than_two_images_get_two_for_batch_norm() -> None:
    shards = [Ranks(rank, 4, rank, 4).shard(torch.tensor([5, 6, 7, 8, 9])) for rank in range(4)]
    assert [(shard.tolist(), count) for shard, count in shards] == [([5, 9], 2), ([6, 7], 1), ([7, 8], 1), ([8, 9], 1)]
    shards = [Ranks(rank, 4, rank, 4).shard(torch.tensor([7, 8])) for rank in range(4)]
    assert [(shard.tolist(), count) for shard, count in shards] == [([7, 8], 1), ([8, 7], 1), ([7, 8], 0), ([8, 7], 0)]


def test_torchruns_environment_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert from_environment() == SINGLE_PROCESS
    for name, value in {"WORLD_SIZE": "6", "RANK": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert from_environment() == Ranks(4, 6, 1, 3)
    assert not from_environment().is_main


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "0"},
    ],
)
def test_environment_variables_that_torchrun_cannot_have_set_are_an_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "")
    assert from_environment() == SINGLE_PROCESS
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"not the environment of a torchrun process: RANK=.*unset WORLD_SIZE"):
        from_environment()


@pytest.mark.parametrize(
    "variables", [{}, {"MASTER_ADDR": "localhost"}, {"MASTER_ADDR": "localhost", "MASTER_PORT": "x"}]
)
def test_processes_without_an_address_to_connect_to_are_an_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UsageError, match=r"cannot connect the processes: .*unset WORLD_SIZE"),
        process_group(Ranks(0, 2, 0, 2), torch.device("cpu")),
    ):
        pass


def test_address_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there after this block
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UsageError, match=rf"cannot connect the processes: .*{port}\); start with torchrun, or unset"),
        process_group(Ranks(1, 2, 1, 2), torch.device("cpu"), timeout_s=1),
    ):
        pass


def test_launcher_starts_the_same_number_of_processes() -> None:
    assert SINGLE_PROCESS.launcher() == []
    assert Ranks(1, 2, 1, 2).launcher() == ["torchrun", "--nproc-per-node", "2", "-m"]
    assert Ranks(4, 6, 1, 3).launcher() == ["torchrun", "--nnodes", "2", "--nproc-per-node", "3", "-m"]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]


def train(folder: Path, processes: int, arch: str) -> subprocess.CompletedProcess[str]:
    """Train one epoch on the digits: 8 steps of 179 images, an odd number, and one step of 10 images."""
    program = [sys.executable, "-m"] if processes == 1 else TORCHRUN
    options = ["--arch", arch, "--data", "digits", "--recipe", "baseline", "--epochs", "1", "--batch-size", "179"]
    options += ["--out", arch, "--no-export-check"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*program, "netkit", "train", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["inception", "residual"])
def test_two_processes_train_the_same_weights_as_one(tmp_path: Path, arch: str) -> None:
    results: list[tuple[dict[str, torch.Tensor], dict[str, str]]] = []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = train(tmp_path / str(processes), processes, arch)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test accuracy") == 1  # only the main process prints
        assert done.stderr.count("epoch 1: ") == done.stderr.count(f"training {arch} on ") == 1
        with open(tmp_path / str(processes) / arch / "metrics.csv") as file:
            (row,) = csv.DictReader(file)
        results.append((load_file(tmp_path / str(processes) / arch / "model.safetensors"), row))
    (one, row_of_one), (two, row_of_two) = results
    for name, weights in one.items():
        # on AVX2 one bias of 0.0075 was 4.7e-6 off after an epoch; with AVX-512 none was over 1e-6
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)
    for column in ("train_loss", "train_accuracy", "test_loss"):
        assert float(row_of_one[column]) == pytest.approx(float(row_of_two[column]), rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker processes in /proc")
def test_two_killed_processes_resume_to_the_same_weights(tmp_path: Path) -> None:
    command = [
        *TORCHRUN,
        "netkit",
        "train",
        "--arch",
        "residual",
        "--data",
        "digits",
        "--epochs",
        "40",
        "--no-export-check",
        "--out",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    state = tmp_path / "killed/training.safetensors"
    process = subprocess.Popen([*command, "killed"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: process.poll() is not None or (state.exists() and load_state(state)[0].step >= 24))
    assert process.poll() is None
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, workers)):  # torchrun first, because it would restart the workers
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert len(workers) == 2 and not (tmp_path / "killed/model.safetensors").exists()
    for name in ("killed", "uninterrupted"):
        done = subprocess.run(
            [*command, name, "--resume"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert ("resuming after step" in done.stderr) == (name == "killed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "uninterrupted")]
    assert weights[0] == weights[1]


WITH_PATIENCE = """
from dataclasses import replace
from pathlib import Path
from netkit.data import digits
from netkit.nets.training.plan import Plan
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import train

data = digits.load()
images, labels = data.train_images[:200], data.train_labels[:200]
wrong = (data.test_labels + 1) % 10  # as the training improves, the accuracy on these labels falls to 0
data = replace(data, train_images=images, train_labels=labels, val_images=data.test_images, val_labels=wrong)
recipe = replace(recipe_named("fast"), epochs=30, batch_size=50, patience=2)
train(Plan("residual", recipe, 0, "cpu", Path("run")), data)
"""


@pytest.mark.slow
def test_two_processes_stop_after_the_same_epoch(tmp_path: Path) -> None:
    """A process that trained on alone would wait for the other one forever."""
    (tmp_path / "program.py").write_text(WITH_PATIENCE)
    done = subprocess.run(
        [*TORCHRUN[:-1], "program.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run/metrics.csv") as file:
        rows = [(float(row["val_accuracy"]), -float(row["val_loss"])) for row in csv.DictReader(file)]
    assert len(rows) == rows.index(max(rows)) + 1 + 2 < 30


FLAT_BATCH_NORM = """
from torch import nn

class Flat(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()
        inputs = channels * size[0] * size[1]
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8))
        self.head, self.auxiliary, self.unused = (nn.Linear(8, classes) for _ in range(3))

    def forward(self, x):
        x = self.features(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)
"""


@pytest.mark.slow
def test_processes_train_a_network_with_unused_layers_on_a_last_batch_of_one_image(tmp_path: Path) -> None:
    """With 28 training images, the second batch has 3 images; the second process gets one of them for batch norm."""
    for index, label in np.ndindex(18, 2):
        (tmp_path / f"photos/{label}").mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 4), index + 100 * label, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{label}/{index}.png")
    (tmp_path / "flat.py").write_text(FLAT_BATCH_NORM)
    command = [*TORCHRUN, "netkit", "train", "--arch", "flat:Flat", "--data", "photos"]
    done = subprocess.run(
        [*command, "--epochs", "1", "--batch-size", "25", "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


VALUES = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()
        self.linear = nn.Linear(channels * size[0] * size[1], classes)

    def forward(self, images):
        return self.linear((images if images.mean() > 0 else -images).flatten(1))
"""


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_stops_all_processes_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "values.py").write_text(VALUES)
    done = subprocess.run(
        [*TORCHRUN, "netkit", "train", "--arch", "values:Net", "--data", "digits", "--epochs", "1"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("netkit: ")]
    assert message.startswith("netkit: rank 0: values:Net: ") and "--no-export-check" in message
    assert not (tmp_path / "runs").exists()
