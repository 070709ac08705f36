"""Resuming a training that was killed or stopped, with real processes and signals: the weights are bit-identical."""

import csv
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from netkit.nets.build import ARCHITECTURES
from netkit.nets.training.state import load as load_state
from tests.support.commands import NETKIT, TRAIN, Netkit


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run([NETKIT, *TRAIN], cwd=folder, check=True, capture_output=True)
    return folder / "run"


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([NETKIT, *TRAIN, *options], cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.005)


def read_metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


SAVE_EVERY_STEP = """
import sys
from functools import partial
from netkit.cli import cli
from netkit.nets.training import plan
plan.Plan = partial(plan.Plan, save_every_s=0.0)
cli(sys.argv[1:])
"""


@pytest.mark.slow
def test_run_killed_within_an_epoch_resumes_there_to_identical_weights(tmp_path: Path, uninterrupted: Path) -> None:
    rng, state, steps = random.Random(0), tmp_path / "run/training.safetensors", []
    for _ in range(4):
        command = [str(NETKIT.with_name("python")), "-c", SAVE_EVERY_STEP, *TRAIN, "--resume"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        steps.append(load_state(state)[0].step)
    assert any(step % 12 for step in steps), steps
    done = subprocess.run([NETKIT, *TRAIN, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert f"resuming after step {steps[-1]} of 84" in done.stderr
    assert_same_run(tmp_path / "run", uninterrupted)


def kill_repeatedly(folder: Path, *options: str, times: int, within_s: float) -> int:
    """Start and kill the training up to `times` times, each time soon after it saved a state; return the kills."""
    rng = random.Random(0)
    state, weights = folder / "run/training.safetensors", folder / "run/model.safetensors"
    kills = 0
    while kills < times and not weights.exists():
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(folder, *options, "--resume")
        while not weights.exists() and not (state.exists() and state.stat().st_mtime_ns > before):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, within_s))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    return kills


def assert_same_run(run: Path, other: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert read_metrics(run) == read_metrics(other)
    names = {path.name for path in run.iterdir() if path.suffix != ".tmp"}  # a killed process leaves its .tmp file
    assert names == {path.name for path in other.iterdir()}


@pytest.mark.slow
def test_run_killed_at_random_moments_resumes_to_identical_weights(tmp_path: Path, uninterrupted: Path) -> None:
    assert kill_repeatedly(tmp_path, times=6, within_s=0.5) >= 2
    done = subprocess.run([NETKIT, *TRAIN, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_survives_twenty_kills_with_identical_weights(tmp_path: Path, arch: str) -> None:
    options = ("--arch", arch, "--epochs", "100")
    for name in ("uninterrupted", "killed"):
        (tmp_path / name).mkdir()
    subprocess.run([NETKIT, *TRAIN, *options], cwd=tmp_path / "uninterrupted", check=True, capture_output=True)
    assert kill_repeatedly(tmp_path / "killed", *options, times=20, within_s=0.5) == 20
    subprocess.run([NETKIT, *TRAIN, *options, "--resume"], cwd=tmp_path / "killed", check=True, capture_output=True)
    assert_same_run(tmp_path / "killed/run", tmp_path / "uninterrupted/run")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_signal_stops_after_the_step_saves_the_state_and_prints_the_command_to_resume(
    tmp_path: Path, uninterrupted: Path, number: int, code: int
) -> None:
    process = start(tmp_path)
    wait_for(tmp_path / "run/training.safetensors", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    *_, message, hint = errors.splitlines()
    assert re.fullmatch(r"netkit: stopped after step \d+ of 84; the progress is saved", message)
    assert hint == f"next: netkit {' '.join(TRAIN[:-1])} --resume {TRAIN[-1]}"
    done = subprocess.run([NETKIT, *hint.split()[2:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "resuming after step" in done.stderr
    assert (tmp_path / "run/model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


def test_signal_during_the_trial_export_changes_no_file(uninterrupted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    arguments = [argument for argument in TRAIN if argument != "--no-export-check"]
    process = subprocess.Popen([NETKIT, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    while "trying the export" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "netkit: stopped before the first step\n" in errors
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_second_signal_stops_immediately(tmp_path: Path) -> None:
    process = start(tmp_path, "--batch-size", "2000")  # an epoch is one long step
    wait_for(tmp_path / "run/training.safetensors", process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 143)  # the system can deliver either signal first
    assert "the progress is saved" not in errors


def test_resuming_a_finished_run_exits_with_0(netkit: Netkit, uninterrupted: Path) -> None:
    done = netkit(*TRAIN, "--resume", cwd=uninterrupted.parent)
    assert done.returncode == 0 and "this run is already complete" in done.stderr
    assert done.stdout.startswith("run/model.safetensors: test accuracy ")


@pytest.mark.slow
def test_full_disk_keeps_the_old_state_and_the_error_names_the_file(tmp_path: Path) -> None:
    """A limit on the file size simulates the full disk."""
    process = start(tmp_path)
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
