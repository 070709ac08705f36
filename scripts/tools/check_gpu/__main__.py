"""Check netkit on this machine's GPU and print a Markdown report. See docs/gpu.md."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from netkit.core.version import VERSION
from scripts.tools.check_gpu.report import FAILED, SKIPPED, Section, missing_gpu, print_section
from scripts.tools.check_gpu.workspace import Workspace

NO_GPU_EXIT_CODE = 3
PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
TRAIN, EXPORT = ("train",), ("train", "cpu")  # netkit's extras; onnxruntime-gpu counts as [cpu]
TORCH, BOTH = ("torch",), ("torch", "onnxruntime")
SECTIONS = {
    "doctor": Section("driver and libraries", "machine.doctor"),
    "tests": Section("tests that need a GPU", "machine.tests", TRAIN, TORCH),
    "train": Section("accuracy on the GPU compared with the CPU", "training.accuracy", TRAIN, TORCH),
    "deterministic": Section("two runs with the same seed", "training.deterministic", TRAIN, TORCH),
    "resume": Section("a run that is killed and resumed", "training.resume", TRAIN, TORCH),
    "torchrun": Section("torchrun with one process", "training.torchrun", TRAIN, TORCH),
    "export": Section("certificates for both execution providers", "inference.export", EXPORT, BOTH),
    "rows": Section("predictions compared with the CPU", "inference.rows", EXPORT, BOTH),
    "provider": Section("the execution provider in use", "inference.providers", EXPORT, BOTH),
    "memory": Section("a batch too large for the GPU", "inference.memory", EXPORT, BOTH),
    "train-speed": Section("time of an epoch compared with a stock PyTorch loop", "speed.training", TRAIN, TORCH),
    "infer-speed": Section("time of a batch compared with other runtimes", "speed.inference", EXPORT, BOTH),
}
CUDA_ONLY = ("memory",)


def header(device: str) -> str:
    """Return the title, the machine and the versions, in Markdown."""
    gpu = "no GPU"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True).stdout.strip().replace("\n", "; ") or gpu
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    python = f"Python {platform.python_version()}"
    return f"# netkit {VERSION}, checked on {device}\n\n{gpu}; {os.cpu_count()} cores; {python}; {', '.join(versions)}"


def section_names(names: str) -> list[str]:
    """Split a comma-separated list. Raises ArgumentTypeError for an unknown name."""
    unknown = [name for name in names.split(",") if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown section {unknown[0]!r}; known: {', '.join(SECTIONS)}")
    return names.split(",")


def main() -> int:
    epilog = "Exit codes: 0 if all checks pass, 1 if a check fails, 3 if there is no GPU."
    parser = argparse.ArgumentParser(prog="check_gpu", description=__doc__, epilog=epilog)
    parser.add_argument("--only", type=section_names, default=list(SECTIONS), metavar="SECTION,...",
                        help=f"sections to run: {', '.join(SECTIONS)} [default: all]")  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda",
                        help="device under test; cpu tests the script itself [default: cuda]")  # fmt: skip
    parser.add_argument("--data", default="mnist", help="data set, as for 'netkit train --data' [default: mnist]")
    arguments = parser.parse_args()
    print(header(arguments.device), flush=True)
    started = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory(prefix="netkit-gpu-") as folder:
        work = Workspace(Path(folder), device=arguments.device, data=arguments.data)
        for name in arguments.only:
            if arguments.device == "cuda" or name not in CUDA_ONLY:
                rows += print_section(name, SECTIONS[name], work)
    failed, skipped = (sum(row.status == status for row in rows) for status in (FAILED, SKIPPED))
    print(f"\n{len(rows)} rows: {failed} failed, {skipped} skipped; {time.monotonic() - started:.0f} s")
    if arguments.device == "cuda" and (cause := missing_gpu()):
        print(f"no GPU: {cause}", file=sys.stderr)
        return NO_GPU_EXIT_CODE
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
