"""Run folders: the names of the files that training and export write. Also the kinds of architecture names."""

import logging
from pathlib import Path

from netkit.core.errors import UsageError

logger = logging.getLogger(__name__)

WEIGHTS, METRICS, ARGUMENTS, MODEL = "model.safetensors", "metrics.csv", "run.json", "model.onnx"
MODELS = {"fp32": MODEL, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}  # by precision
PARITY = "parity.md"  # the parity report of the models
STATE = "training.safetensors"  # the state from which training resumes
LOGS = "tensorboard"  # a folder
CURVES, CONFUSION, MISTAKES = "curves.png", "confusion.png", "mistakes.png"
COMMANDS = {WEIGHTS: "netkit train", MODEL: "netkit export"}  # file -> the command that writes it

TORCHVISION, TIMM = LIBRARIES = ("torchvision/", "timm/")  # prefixes of the names of their classifiers


def run_folder(arch: str) -> Path:
    """Return the default run folder of `arch`: runs/ARCH, with '-' for each '/', ':' and '.'."""
    return Path("runs") / arch.translate(str.maketrans("/:.", "---"))


def choose(name: str, *, file: Path | None, arch: str | None) -> Path:
    """Return `file`, or the file `name` in the run folder of `arch`, or by default the newest runs/*/`name`.

    `name` is WEIGHTS or MODEL. The newest file is logged. Raises UsageError if both `file` and `arch` are given, or if
    the file does not exist; the message then names the command that writes it.
    """
    if file is not None and arch is not None:
        raise UsageError(f"{file} and --arch {arch} both name a file: pass only one of them")
    if file is None and arch is None:
        candidates = sorted(Path("runs").glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise UsageError(f"no runs/*/{name} found; run '{COMMANDS[name]}' first")
        logger.info("using %s, the newest runs/*/%s", candidates[-1], name)
        return candidates[-1]
    path = file or run_folder(str(arch)) / name
    if path.exists() and not path.is_file():
        example = f", e.g. {path / name}" if path.is_dir() else ""
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise UsageError(f"{path}: is {kind}; pass a file that '{COMMANDS[name]}' wrote{example}")
    if not path.is_file():
        fix = f"run '{COMMANDS[name]} --arch {arch}' first" if arch else f"pass a file that '{COMMANDS[name]}' wrote"
        raise UsageError(f"{path}: no such file; {fix}")
    return path


def is_external(arch: str) -> bool:
    """Whether the network is not part of netkit: torchvision/NAME, timm/NAME or MODULE:CLASS."""
    return arch.startswith(LIBRARIES) or is_user_code(arch)


def is_user_code(arch: str) -> bool:
    """Whether the network is MODULE:CLASS. Building it runs code that is part of neither netkit nor its libraries."""
    return ":" in arch and not arch.startswith(LIBRARIES)


def required_channels(arch: str) -> int | None:
    """Return the number of image channels that the network requires; None if it accepts any number."""
    return 3 if arch.startswith(LIBRARIES) else None
