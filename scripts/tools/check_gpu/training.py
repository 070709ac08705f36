"""Sections on training: accuracy, reproducibility, resuming, torchrun."""

import signal
import subprocess
import time
from collections.abc import Iterator

from netkit.nets.build import ARCHITECTURES
from scripts.tools.check_gpu.report import Row, passed
from scripts.tools.check_gpu.workspace import NETKIT, TORCHRUN, Run, Workspace

MAX_EPOCH_DROP = 0.005  # in test accuracy, from the CPU to the GPU, after one epoch
MAX_RECIPE_DROP = 0.002  # after the full recipe
REPEATED = ("residual", "inception")  # the nets that are trained twice
RESUMED = ("--arch", "residual", "--epochs", "4", "--deterministic")
POLL_S = 0.01


def accuracy(work: Workspace) -> Iterator[Row]:
    """One epoch of every net, and residual by the full recipe, on the device and on the CPU."""
    for arch in ARCHITECTURES:
        here, on_cpu = (work.one_epoch(arch, device) for device in (work.device, "cpu"))
        yield _compared(f"{arch}, one epoch", here, on_cpu, max_drop=MAX_EPOCH_DROP)
    here, on_cpu = (
        work.train(f"full-{device}", "--arch", "residual", device=device) for device in (work.device, "cpu")
    )
    yield _compared("residual, full recipe", here, on_cpu, max_drop=MAX_RECIPE_DROP)


def _compared(check: str, here: Run, on_cpu: Run, *, max_drop: float) -> Row:
    detail = (
        f"{here.accuracy:.2%} in {sum(here.epochs_s):.1f} s; "
        f"on the CPU {on_cpu.accuracy:.2%} in {sum(on_cpu.epochs_s):.1f} s"
    )
    return passed(check, here.accuracy >= on_cpu.accuracy - max_drop, detail)


def deterministic(work: Workspace) -> Iterator[Row]:
    """The same seed twice gives the same bytes."""
    for arch in REPEATED:
        first, second = (
            work.train(f"{arch}-{turn}", "--arch", arch, "--epochs", "1", "--deterministic", device=work.device)
            for turn in (1, 2)
        )
        yield passed(f"{arch} twice", first.weights == second.weights, f"{len(first.weights):,} bytes compared")


def resume(work: Workspace) -> Iterator[Row]:
    """A training that is killed and resumed ends with the bytes of one that was not."""
    whole = work.train("whole", *RESUMED, device=work.device)
    folder = work.folder / "killed"
    command = [*NETKIT, "train", *RESUMED, "--data", work.data, "--device", work.device, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (folder / "metrics.csv").exists():  # written after the first epoch
            time.sleep(POLL_S)
        process.kill()
    yield passed("killed", process.returncode == -signal.SIGKILL, f"exit code {process.returncode}")
    resumed = work.train("killed", *RESUMED, "--resume", device=work.device)
    yield passed("resumed", resumed.weights == whole.weights, f"{len(whole.weights):,} bytes compared")


def torchrun(work: Workspace) -> Iterator[Row]:
    """One process, started by torchrun."""
    run = work.train("torchrun", "--arch", "residual", "--epochs", "1", device=work.device, program=TORCHRUN)
    alone = work.one_epoch("residual", work.device).accuracy
    close = abs(run.accuracy - alone) <= MAX_EPOCH_DROP
    yield passed("one process", close, f"{run.accuracy:.2%}; without torchrun {alone:.2%}")
