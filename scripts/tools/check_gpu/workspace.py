"""The folder in which the checks work, and what several sections share: runs, a model, image files."""

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

NETKIT = (sys.executable, "-m", "netkit")
TIMEOUT_S = 240


@dataclass(frozen=True)
class Run:
    """A training: its folder, the test accuracy of the last epoch in [0, 1], and the seconds of the epochs."""

    folder: Path
    accuracy: float
    epochs_s: tuple[float, ...]

    @property
    def weights(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()


class Workspace:
    """`device` is the device under test; `data` is a data set as `netkit train` takes it."""

    def __init__(self, folder: Path, *, device: str, data: str) -> None:
        self.folder, self.device, self.data = folder, device, data

    def command(self, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the netkit command."""
        return subprocess.run(
            [*NETKIT, *arguments], cwd=self.folder, env={**os.environ, **environment}, capture_output=True, text=True,
            timeout=TIMEOUT_S,
        )  # fmt: skip

    def netkit(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run the netkit command. Raises RuntimeError, with its last line, if it fails."""
        done = self.command(*arguments)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"netkit {' '.join(map(str, arguments))}: exit code {done.returncode}: {last}")
        return done

    def train(self, name: str, *options: str, device: str) -> Run:
        """Train into the folder `name`."""
        self.netkit("train", "--data", self.data, "--device", device, "--out", name, *options)
        return read_run(self.folder / name)

    @cache  # noqa: B019  # one workspace lives as long as the process
    def one_epoch(self, arch: str, device: str) -> Run:
        """A training of one epoch."""
        return self.train(f"{arch}-{device}", "--arch", arch, "--epochs", "1", device=device)

    @cached_property
    def model(self) -> Path:
        """A residual network, trained for an epoch on the device and exported."""
        run = self.one_epoch("residual", self.device)
        self.netkit("export", "--run", run.folder)
        return run.folder / "model.onnx"

    @cached_property
    def images(self) -> Path:
        """A folder with the test images as files."""
        self.netkit("sample", "images", "--data", self.data)
        return self.folder / "images"


def read_run(folder: Path) -> Run:
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return Run(folder, float(rows[-1]["test_accuracy"]), tuple(float(row["seconds"]) for row in rows))
