"""Sections on training: accuracy, reproducibility, resuming, torchrun."""

import signal
import subprocess
import time
from collections.abc import Iterator

from netkit.nets.build import ARCHITECTURES
from scripts.tools.check_gpu.report import Row, passed
from scripts.tools.check_gpu.workspace import NETKIT, TORCHRUN, Run, Workspace

MAX_EPOCH_DROP = 0.005  # how far the test accuracy on the GPU may be below the CPU's, after one epoch
MAX_RECIPE_DROP = 0.002  # the same after the full recipe
REPEATED = ("residual", "inception")  # the networks that are trained twice
RESUMED = ("--arch", "residual", "--epochs", "4", "--deterministic")
POLL_S = 0.01


def accuracy(work: Workspace) -> Iterator[Row]:
    """Compare the device with the CPU: one epoch of every network, and residual with the full recipe."""
    for arch in ARCHITECTURES:
        on_device, on_cpu = (work.one_epoch(arch, device) for device in (work.device, "cpu"))
        yield _compared(f"{arch}, one epoch", on_device, on_cpu, max_drop=MAX_EPOCH_DROP)
    on_device, on_cpu = (
        work.train(f"full-{device}", "--arch", "residual", device=device) for device in (work.device, "cpu")
    )
    yield _compared("residual, full recipe", on_device, on_cpu, max_drop=MAX_RECIPE_DROP)


def _compared(check: str, on_device: Run, on_cpu: Run, *, max_drop: float) -> Row:
    detail = (
        f"{on_device.accuracy:.2%} in {sum(on_device.epochs_s):.1f} s; "
        f"on the CPU {on_cpu.accuracy:.2%} in {sum(on_cpu.epochs_s):.1f} s"
    )
    return passed(check, on_device.accuracy >= on_cpu.accuracy - max_drop, detail)


def deterministic(work: Workspace) -> Iterator[Row]:
    """Check that two runs with the same seed write the same bytes."""
    for arch in REPEATED:
        first, second = (
            work.train(f"{arch}-{turn}", "--arch", arch, "--epochs", "1", "--deterministic", device=work.device)
            for turn in (1, 2)
        )
        yield passed(f"{arch} twice", first.weights == second.weights, f"{len(first.weights):,} bytes compared")


def resume(work: Workspace) -> Iterator[Row]:
    """Check that a run that is killed and resumed writes the same bytes as an uninterrupted run."""
    uninterrupted = work.train("uninterrupted", *RESUMED, device=work.device)
    folder = work.folder / "killed"
    command = [*NETKIT, "train", *RESUMED, "--data", work.data, "--device", work.device, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (folder / "metrics.csv").exists():  # written after the first epoch
            time.sleep(POLL_S)
        process.kill()
    yield passed("killed", process.returncode == -signal.SIGKILL, f"exit code {process.returncode}")
    resumed = work.train("killed", *RESUMED, "--resume", device=work.device)
    yield passed("resumed", resumed.weights == uninterrupted.weights, f"{len(resumed.weights):,} bytes compared")


def torchrun(work: Workspace) -> Iterator[Row]:
    """Check that one process started by torchrun reaches the accuracy of a run without torchrun."""
    run = work.train("torchrun", "--arch", "residual", "--epochs", "1", device=work.device, program=TORCHRUN)
    without_torchrun = work.one_epoch("residual", work.device).accuracy
    close = abs(run.accuracy - without_torchrun) <= MAX_EPOCH_DROP
    yield passed("one process", close, f"{run.accuracy:.2%}; without torchrun {without_torchrun:.2%}")
