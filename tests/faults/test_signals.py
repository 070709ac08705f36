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
from tests.support.commands import NETKIT, digits_in, heeding_interrupts

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}


def ready(process: "subprocess.Popen[str]") -> None:
    """Wait until it handles SIGTERM: it is netkit then, and no more an interpreter that starts."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def started(command: tuple[str, ...], folder: Path) -> "subprocess.Popen[str]":
    """A command that handles signals by now."""
    process = subprocess.Popen(
        [NETKIT, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=heeding_interrupts,
    )  # fmt: skip
    ready(process)
    return process


RESULTS = ("m.onnx", "r.csv", "report.html")
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
    tmp_path: Path, workplace: Path, digits_data: ArrayDataSet, command: tuple[str, ...]
) -> None:
    shutil.copytree(workplace / "runs", tmp_path / "runs")
    digits_in(tmp_path / "images", digits_data, count=20_000)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    chance = random.Random(0)
    process = started(command, tmp_path)
    begun = time.monotonic()
    process.communicate(timeout=600)
    takes_s, ended = time.monotonic() - begun, process.returncode
    assert ended in (0, 1 if command == ("doctor",) else 0)  # 1 where something is wrong
    stopped = 0
    for number, code in STOPPED.items():
        for wait_s in (0, *(chance.uniform(0, min(0.8 * takes_s, 3)) for _ in range(4))):
            for result in RESULTS:
                (tmp_path / result).unlink(missing_ok=True)
            process = started(command, tmp_path)
            time.sleep(wait_s)
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
            assert "Traceback" not in told, told
            if process.returncode == code:
                stopped += 1
                assert not any((tmp_path / result).exists() for result in RESULTS)
            else:  # one that comes when all is done and put away ends the process without a word
                assert process.returncode in (ended, -number), told
    assert stopped >= 2, stopped  # of 10: the two at once, and those that came before the command had ended
