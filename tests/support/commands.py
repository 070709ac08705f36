"""The netkit command as tests run it, and files to run it on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from netkit.data.dataset import ArrayDataSet

NETKIT = Path(sys.executable).with_name("netkit")


Netkit = Callable[..., "subprocess.CompletedProcess[str]"]


def run_netkit(*arguments: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [NETKIT, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
    )


def digits_in(folder: Path, data: ArrayDataSet, *, count: int, files: int = 100) -> list[Path]:
    """`count` names of `files` pictures of digits."""
    folder.mkdir()
    paths = [folder / f"{index:06}.png" for index in range(count)]
    for index, path in enumerate(paths):
        if index < files:
            Image.fromarray(data.test_images[index, 0]).save(path)
        else:
            os.link(paths[index % files], path)
    return paths


def heeding_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who starts the tests in the background lets them ignore it


TRAIN = ("train", "--arch", "residual", "--data", "digits", "--epochs", "12", "--out", "run")


def wait_for_an_epoch(folder: Path, training: "subprocess.Popen[bytes]") -> None:
    rows = folder / "run/metrics.csv"  # the state comes after the rows: with two, it has one epoch
    while not rows.exists() or len(rows.read_text().splitlines()) < 3:
        assert training.poll() is None
        time.sleep(0.005)
