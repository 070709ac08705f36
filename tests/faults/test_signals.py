"""SIGINT and SIGTERM to each command, at random moments."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from netkit.data.dataset import ArrayDataSet
from tests.support.commands import NETKIT, restore_sigint, write_digits

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def wait_for_handler(process: "subprocess.Popen[str]") -> None:
    """Wait until the process handles SIGTERM; before that Python is still starting."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def start(command: tuple[str, ...], folder: Path) -> "subprocess.Popen[str]":
    """Start a command and wait until it handles signals."""
    process = subprocess.Popen(
        [NETKIT, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=restore_sigint,
    )  # fmt: skip
    wait_for_handler(process)
    return process


RESULTS = ("m.onnx", "r.csv", "report.html")
COMMANDS = [
    ("train", "--arch", "residual", "--data", "digits", "--no-export-check", "--out", "run"),
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
@pytest.mark.skipif(sys.platform != "linux", reason="reads from /proc whether a command handles signals")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:1] + command[4:5]))
def test_a_signal_ends_each_command_with_its_exit_code_and_without_a_traceback(
    tmp_path: Path, workspace: Path, digits_data: ArrayDataSet, command: tuple[str, ...]
) -> None:
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    write_digits(tmp_path / "images", digits_data, count=20_000)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    rng = random.Random(0)
    process = start(command, tmp_path)
    started = time.monotonic()
    process.communicate(timeout=600)
    duration_s, exit_code = time.monotonic() - started, process.returncode
    assert exit_code in (0, 1 if command == ("doctor",) else 0)  # doctor: 1 if it finds a problem
    stopped = 0
    for number, code in EXIT_CODES.items():
        for wait_s in (0, *(rng.uniform(0, min(0.8 * duration_s, 3)) for _ in range(4))):
            for result in RESULTS:
                (tmp_path / result).unlink(missing_ok=True)
            process = start(command, tmp_path)
            time.sleep(wait_s)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=60)
            assert "Traceback" not in stderr, stderr
            if process.returncode == code:
                stopped += 1
                assert not any((tmp_path / result).exists() for result in RESULTS)
            else:  # the command had ended, or its handlers were removed already
                assert process.returncode in (exit_code, -number), stderr
    assert stopped >= 2, stopped  # of 10 signals, at least the two sent without a wait
