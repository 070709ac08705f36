"""Runs: the folders that training leaves, what the files in them are called, and which of them is meant."""

import logging
from pathlib import Path

from netkit.core.errors import UsageError

logger = logging.getLogger(__name__)

WEIGHTS, METRICS, ARGUMENTS, MODEL = "model.safetensors", "metrics.csv", "run.json", "model.onnx"
MODELS = {"fp32": MODEL, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}  # by precision
PARITY = "parity.md"  # about the models, for people
STATE = "training.safetensors"  # of a run that has not ended
LOGS = "tensorboard"  # a folder, of logs for it
CURVES, CONFUSION, MISTAKES = "curves.png", "confusion.png", "mistakes.png"
MAKERS = {WEIGHTS: "netkit train", MODEL: "netkit export"}


def run_folder(arch: str) -> Path:
    """Where a run of `arch` lives unless --out says otherwise: runs/<arch>, with '/', ':' and '.' as '-'."""
    return Path("runs") / arch.translate(str.maketrans("/:.", "---"))


def choose(name: str, *, file: Path | None, arch: str | None) -> Path:
    """The WEIGHTS or MODEL that is meant: `file`, or that of `arch`, or else the newest in runs/, which is then said.

    Raises UsageError where there is none, with the command that makes it, or where both are given.
    """
    if file is not None and arch is not None:
        raise UsageError(f"{file} and --arch {arch}: name one of them")
    if file is None and arch is None:
        candidates = sorted(Path("runs").glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise UsageError(f"no runs/*/{name} here; make one with '{MAKERS[name]}'")
        logger.info("using the newest, %s", candidates[-1])
        return candidates[-1]
    path = file or run_folder(str(arch)) / name
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file, but {'a folder' if path.is_dir() else 'a pipe or a device'}")
    if not path.is_file():
        advice = f"; make it with '{MAKERS[name]} --arch {arch}'" if arch else ""
        raise UsageError(f"{path}: no such file{advice}")
    return path


TORCHVISION = "torchvision/"  # what the names of its classifiers begin with here


def is_foreign(name: str) -> bool:
    """Whether `name` is none of netkit's own: torchvision/NAME, or MODULE:CLASS, code of the user's."""
    return name.startswith(TORCHVISION) or is_users(name)


def is_users(name: str) -> bool:
    """Whether `name` stands for code outside netkit and torchvision, which is run when such a net is built."""
    return ":" in name


def only_channels(name: str) -> int | None:
    """Of how many channels images must be for such a net; None where it takes any number."""
    return 3 if name.startswith(TORCHVISION) else None
