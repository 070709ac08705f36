"""A training that is killed, or told to stop, and goes on: real processes, real signals, the same bits in the end."""

import csv
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from netkit.nets.build import ARCHITECTURES
from netkit.nets.training.state import load as load_state
from tests.support.commands import NETKIT, TRAIN, Netkit


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it is without a pause."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run([NETKIT, *TRAIN], cwd=folder, check=True, capture_output=True)
    return folder / "run"


def started(folder: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([NETKIT, *TRAIN, *more], cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.005)


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


OFTEN = """
import sys
from functools import partial
from netkit.cli import cli
from netkit.nets.training import run
run.Plan = partial(run.Plan, save_every_s=0.0)  # at each step
cli(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_within_an_epoch_it_goes_on_there_to_the_same_bits(tmp_path: Path, whole: Path) -> None:
    chance, state, steps = random.Random(0), tmp_path / "run/training.safetensors", []
    for _ in range(4):
        command = [str(NETKIT.with_name("python")), "-c", OFTEN, *TRAIN, "--resume"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        steps.append(load_state(state)[0].step)
    assert any(step % 12 for step in steps), steps
    done = subprocess.run([NETKIT, *TRAIN, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert f"going on after step {steps[-1]} of 84" in done.stderr
    assert_same(tmp_path / "run", whole)


def killed(folder: Path, *more: str, times: int, within_s: float) -> int:
    """Kill the training up to so often, soon after it saved a state; gives how often that was not too late."""
    chance = random.Random(0)
    state, weights = folder / "run/training.safetensors", folder / "run/model.safetensors"
    kills = 0
    while kills < times and not weights.exists():
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = started(folder, *more, "--resume")
        while not weights.exists() and not (state.exists() and state.stat().st_mtime_ns > before):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0, within_s))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    return kills


def assert_same(run: Path, other: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert table(run) == table(other)
    names = {path.name for path in run.iterdir() if path.suffix != ".tmp"}  # a killed writer's stays until it is stale
    assert names == {path.name for path in other.iterdir()}


@pytest.mark.slow
def test_after_sigkill_at_random_moments_the_weights_are_those_of_no_kill(tmp_path: Path, whole: Path) -> None:
    assert killed(tmp_path, times=6, within_s=0.5) >= 2
    done = subprocess.run([NETKIT, *TRAIN, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_net_outlives_twenty_kills_with_the_same_bits(tmp_path: Path, arch: str) -> None:
    more = ("--arch", arch, "--epochs", "100")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    subprocess.run([NETKIT, *TRAIN, *more], cwd=tmp_path / "whole", check=True, capture_output=True)
    assert killed(tmp_path / "killed", *more, times=20, within_s=0.5) == 20
    subprocess.run([NETKIT, *TRAIN, *more, "--resume"], cwd=tmp_path / "killed", check=True, capture_output=True)
    assert_same(tmp_path / "killed/run", tmp_path / "whole/run")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_step_saves_and_tells_how_to_go_on(
    tmp_path: Path, whole: Path, number: int, code: int
) -> None:
    process = started(tmp_path)
    wait_for(tmp_path / "run/training.safetensors", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    *_, hint, last = errors.splitlines()
    assert re.fullmatch(r"netkit: stopped after step \d+ of 84; all is saved", last)
    assert hint == f"next: netkit {' '.join(TRAIN)} --resume"
    done = subprocess.run([NETKIT, *hint.split()[2:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "going on after step" in done.stderr
    assert (tmp_path / "run/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    process = started(tmp_path, "--batch-size", "2000")  # one long step an epoch
    wait_for(tmp_path / "run/training.safetensors", process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 143)  # which of the two is seen first is the system's choice
    assert "all is saved" not in errors


def test_resuming_an_ended_run_exits_with_0(netkit: Netkit, whole: Path) -> None:
    done = netkit(*TRAIN, "--resume", cwd=whole.parent)
    assert done.returncode == 0 and "this run has ended: nothing is left to do" in done.stderr
    assert done.stdout.startswith("run/model.safetensors: test accuracy ")


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_state_and_names_the_file(tmp_path: Path) -> None:
    """A limit on file sizes, below what a state needs, stands in for the disk; 27 is what the system says then."""
    process = started(tmp_path)
    wait_for(tmp_path / "run/training.safetensors", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    before = (tmp_path / "run/training.safetensors").read_bytes()
    limited = (
        "import resource, signal, sys; from netkit.cli import cli; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    )
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); cli(sys.argv[1:])"
    python = NETKIT.with_name("python")
    done = subprocess.run(
        [python, "-c", limited, *TRAIN, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "netkit: run/training.safetensors: File too large"
    assert (tmp_path / "run/training.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
