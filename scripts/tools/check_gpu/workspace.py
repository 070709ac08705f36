"""The working folder of the checks, with the runs, the model and the images that several sections share."""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

NETKIT = (sys.executable, "-m", "netkit")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "netkit")
TIMEOUT_S = 240


@dataclass(frozen=True)
class Run:
    """A training run: folder, test accuracy of the last epoch in [0, 1], and seconds of each epoch."""

    folder: Path
    accuracy: float
    epochs_s: tuple[float, ...]

    @property
    def weights(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()


class Workspace:
    """`device` is the device under test; `data` is a data set as for `netkit train --data`."""

    def __init__(self, folder: Path, *, device: str, data: str) -> None:
        self.folder, self.device, self.data = folder, device, data

    def command(
        self, *arguments: str | Path, program: tuple[str, ...] = NETKIT, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the netkit command."""
        return subprocess.run(
            [*program, *arguments],
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def netkit(self, *arguments: str | Path, program: tuple[str, ...] = NETKIT) -> "subprocess.CompletedProcess[str]":
        """Run the netkit command. Raises RuntimeError with the command's error message if it fails."""
        done = self.command(*arguments, program=program)
        if done.returncode:
            messages = [line for line in done.stderr.splitlines() if line.startswith("netkit: ")] or ["no message"]
            raise RuntimeError(f"{' '.join(map(str, arguments))}: exit code {done.returncode}: {messages[-1]}")
        return done

    def train(self, name: str, *options: str, device: str, program: tuple[str, ...] = NETKIT) -> Run:
        """Train into the folder `name`."""
        self.netkit("train", "--data", self.data, "--device", device, "--out", name, *options, program=program)
        with open(self.folder / name / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        epochs_s = tuple(float(row["seconds"]) for row in rows)
        return Run(self.folder / name, float(rows[-1]["test_accuracy"]), epochs_s)

    @cache  # noqa: B019  # the only workspace lives as long as the process
    def one_epoch(self, arch: str, device: str) -> Run:
        """Train for one epoch, once per network and device."""
        return self.train(f"{arch}-{device}", "--arch", arch, "--epochs", "1", device=device)

    @cached_property
    def model(self) -> Path:
        """The exported model of a residual network, trained for one epoch on the device."""
        run = self.one_epoch("residual", self.device)
        self.netkit("export", "--run", run.folder)
        return run.folder / "model.onnx"

    @cached_property
    def images(self) -> Path:
        """A folder with the test images as PNG files."""
        self.netkit("sample", "images", "--data", self.data)
        return self.folder / "images"
