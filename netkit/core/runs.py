"""Run folders: where a training's files are and what they are called; and what an architecture's name says."""

import logging
from pathlib import Path

from netkit.core.errors import UsageError

logger = logging.getLogger(__name__)

WEIGHTS, METRICS, ARGUMENTS, MODEL = "model.safetensors", "metrics.csv", "run.json", "model.onnx"
MODELS = {"fp32": MODEL, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}  # by precision
PARITY = "parity.md"  # the parity report on the models
STATE = "training.safetensors"  # of a training that can be resumed
LOGS = "tensorboard"  # a folder
CURVES, CONFUSION, MISTAKES = "curves.png", "confusion.png", "mistakes.png"
COMMANDS = {WEIGHTS: "netkit train", MODEL: "netkit export"}  # that write these files

TORCHVISION = "torchvision/"  # prefix of the names of torchvision's classifiers


def run_folder(arch: str) -> Path:
    """The default folder of runs of `arch`: runs/ARCH, with '-' for each '/', ':' and '.'."""
    return Path("runs") / arch.translate(str.maketrans("/:.", "---"))


def choose(name: str, *, file: Path | None, arch: str | None) -> Path:
    """The file called `name`, WEIGHTS or MODEL, to use: `file`, or that of `arch`, or else the newest in runs/.

    Logs which one is the newest. Raises UsageError if both `file` and `arch` are given, or if there is no such file;
    the message then names the command that writes it.
    """
    if file is not None and arch is not None:
        raise UsageError(f"{file} and --arch {arch}: name one of them")
    if file is None and arch is None:
        candidates = sorted(Path("runs").glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise UsageError(f"no runs/*/{name} here; make one with '{COMMANDS[name]}'")
        logger.info("using the newest, %s", candidates[-1])
        return candidates[-1]
    path = file or run_folder(str(arch)) / name
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file, but {'a folder' if path.is_dir() else 'a pipe or a device'}")
    if not path.is_file():
        hint = f"; make it with '{COMMANDS[name]} --arch {arch}'" if arch else ""
        raise UsageError(f"{path}: no such file{hint}")
    return path


def is_external(arch: str) -> bool:
    """Whether the network is not netkit's own: torchvision/NAME, or MODULE:CLASS."""
    return arch.startswith(TORCHVISION) or is_user_code(arch)


def is_user_code(arch: str) -> bool:
    """Whether the network is MODULE:CLASS: building it runs code that neither netkit nor torchvision wrote."""
    return ":" in arch


def required_channels(arch: str) -> int | None:
    """The number of image channels that the network requires; None if it takes any number."""
    return 3 if arch.startswith(TORCHVISION) else None
