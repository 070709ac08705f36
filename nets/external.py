"""Nets that are not netkit's own: torchvision's classifiers, and classes of the user's, named module:Class."""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from torch import nn

from netkit.core.errors import UsageError, one_line, unknown_name
from netkit.core.runs import TORCHVISION, required_channels

# with the auxiliary heads of their papers they would give several answers while they are trained
WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
TRIED = (32, 64, 128, 224, 256, 384, 512)  # pixels; one of these is large enough for a net of some size

Make = Callable[[tuple[int, int]], nn.Module]


def build(arch: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """The net with that name for images (channels, height, width) of that size, with fresh weights.

    Raises UsageError where there is none, or where it cannot take such images: then with the least size that it can.
    """
    make = _torchvision(arch, channels, classes) if arch.startswith(TORCHVISION) else _users(arch, channels, classes)
    if fault := _fault(make, channels, classes, size):
        fits = next((side for side in TRIED if not _fault(make, channels, classes, (side, side))), None)
        least = _least(make, channels, classes, fits) if fits else None
        told = f"; the least that it takes is {least}x{least}" if least else ""
        raise UsageError(f"{arch} cannot take {size[0]}x{size[1]} images of {channels} channels: {fault}{told}")
    return make(size)


def torchvisions() -> list[str]:
    """The names of torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision(arch: str, channels: int, classes: int) -> Make:
    from torchvision import models

    name = arch.removeprefix(TORCHVISION)
    if name not in (known := torchvisions()):
        raise unknown_name("architecture", arch, [f"{TORCHVISION}{each}" for each in known])
    if channels != (only := required_channels(arch)):
        raise UsageError(f"{arch} takes images of {only} channels, not {channels}: use --channels {only}")
    options = {"num_classes": classes, **WITHOUT_AUXILIARY.get(name, {})}

    def make(size: tuple[int, int]) -> nn.Module:
        square = {"image_size": size[0]} if name.startswith("vit_") else {}
        net: nn.Module = models.get_model(name, weights=None, **options, **square)
        return net

    return make


def _users(arch: str, channels: int, classes: int) -> Make:
    module_name, _, class_name = arch.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # as `python -m` has it, but last: nothing there stands for a module of Python's
    try:
        made = getattr(import_module(module_name), class_name)
    except AttributeError:
        raise UsageError(f"{arch}: {module_name} has no {class_name}") from None
    except Exception as fault:  # whatever the code of others raises
        if isinstance(fault, ModuleNotFoundError) and fault.name and module_name.startswith(fault.name):
            raise UsageError(f"{arch}: no module {module_name} here, nor where Python looks for modules") from None
        raise UsageError(f"{arch}: {module_name} cannot be imported: {one_line(repr(fault))}") from None
    return partial(_made, made, channels, classes)


def _made(made: Callable[..., nn.Module], channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    return made(channels=channels, classes=classes, size=size)


def _fault(make: Make, channels: int, classes: int, size: tuple[int, int]) -> str | None:
    """Why that size cannot be, by a run without memory or computing; None where it can."""
    try:
        with torch.device("meta"), torch.no_grad():
            net = make(size).eval()
            logits = net(torch.zeros(2, channels, *size))
    except Exception as fault:  # whatever the code of others raises
        return one_line(str(fault) or type(fault).__name__)[:200]
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    return None if shape == (2, classes) else f"it gives {shape} for 2 images, not logits of (2, {classes})"


def _least(make: Make, channels: int, classes: int, fits: int) -> int:
    """The smallest side of a square, given one that fits, by halving."""
    below = 0
    while fits - below > 1:
        middle = (below + fits) // 2
        if _fault(make, channels, classes, (middle, middle)):
            below = middle
        else:
            fits = middle
    return fits
