"""Helpers that run the netkit command, and write files for it to read."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from PIL import Image

from netkit.cli import cli
from netkit.data.dataset import ArrayDataSet

NETKIT = Path(sys.executable).with_name("netkit")
Netkit = Callable[..., "subprocess.CompletedProcess[str]"]


def run_netkit(*arguments: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [NETKIT, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
    )


def call_netkit(
    *arguments: str | Path, cwd: Path, capfd: pytest.CaptureFixture[str], stdin: bytes = b"", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process; return what `run_netkit` returns."""
    logger = logging.getLogger("netkit")
    handlers, level = logger.handlers, logger.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    capfd.readouterr()
    with (
        TemporaryFile() as file,
        open(file.fileno(), closefd=False) as stdin_text,
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SystemExit) as exited,
    ):
        file.write(stdin)
        file.seek(0)
        patch.chdir(cwd)
        patch.setattr(sys, "stdin", stdin_text)
        for name, value in environment.items():
            patch.setenv(name, value)
        for module, hook in ((threading, "excepthook"), (sys, "unraisablehook")):  # the command replaces them
            patch.setattr(module, hook, getattr(module, hook))
        cli([os.fspath(argument) for argument in arguments])
    for number, handler in signals.items():
        signal.signal(number, handler)
    logger.handlers, logger.level = handlers, level
    stdout, stderr = capfd.readouterr()
    return subprocess.CompletedProcess(arguments, int(exited.value.code or 0), stdout, stderr)


def write_digits(folder: Path, data: ArrayDataSet, *, count: int, files: int = 100) -> list[Path]:
    """Write `files` PNG images of digits and hard links to them, `count` paths in all; return the paths."""
    folder.mkdir()
    paths = [folder / f"{index:06}.png" for index in range(count)]
    for index, path in enumerate(paths):
        if index < files:
            Image.fromarray(data.test_images[index, 0]).save(path)
        else:
            os.link(paths[index % files], path)
    return paths


def restore_sigint() -> None:
    """Make the process handle SIGINT: a shell starts background jobs, such as the tests, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


TRAIN = ("train", "--arch", "residual", "--data", "digits", "--epochs", "12", "--out", "run", "--no-export-check")


def wait_for_an_epoch(folder: Path, training: "subprocess.Popen[bytes]") -> None:
    """Wait until folder/run holds the training state of at least one epoch."""
    metrics = folder / "run/metrics.csv"  # written before the state: with two rows, the state has one epoch
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert training.poll() is None
        time.sleep(0.005)
