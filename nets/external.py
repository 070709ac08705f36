"""Networks that are not netkit's own: torchvision's classifiers, and the user's classes, named MODULE:CLASS."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import torch
from torch import nn

from netkit.core.errors import UsageError, one_line, unknown_name
from netkit.core.runs import TORCHVISION, required_channels

# with the auxiliary heads of their papers these networks return several outputs in training mode
WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
CANDIDATE_SIDES = (32, 64, 128, 224, 256, 384, 512)  # pixels; most networks take one of these

Make = Callable[[tuple[int, int]], nn.Module]


def create(name: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """The network called `name` for images (channels, *size), with fresh weights.

    Raises UsageError if there is no such network, or if it cannot take such images; the message then names the
    smallest square that it can take.
    """
    if name.startswith(TORCHVISION):
        return _checked(name, _torchvision(name, channels, classes), channels, classes, size)
    with _modules_from(os.getcwd(), first=re.split("[.:]", name)[0]):
        return _checked(name, _users(name, channels, classes), channels, classes, size)


def torchvision_names() -> list[str]:
    """The names of torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision(arch: str, channels: int, classes: int) -> Make:
    from torchvision import models

    name = arch.removeprefix(TORCHVISION)
    if name not in (known := torchvision_names()):
        raise unknown_name("architecture", arch, [f"{TORCHVISION}{each}" for each in known])
    if channels != (only := required_channels(arch)):
        raise UsageError(f"{arch} takes images of {only} channels, not {channels}: use --channels {only}")
    options = {"num_classes": classes, **WITHOUT_AUXILIARY.get(name, {})}

    def make(size: tuple[int, int]) -> nn.Module:
        square = {"image_size": size[0]} if name.startswith("vit_") else {}
        network: nn.Module = models.get_model(name, weights=None, **options, **square)
        return network

    return make


def _users(arch: str, channels: int, classes: int) -> Make:
    module_name, _, class_name = arch.partition(":")
    try:
        network = getattr(import_module(module_name), class_name)
    except AttributeError:
        raise UsageError(f"{arch}: {module_name} has no {class_name}") from None
    except Exception as exc:  # the user's code can raise anything
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{module_name}.".startswith(f"{exc.name}."):
            raise UsageError(f"{arch}: no module {module_name} here, nor where Python looks for modules") from None
        raise UsageError(f"{arch}: {module_name} cannot be imported: {one_line(repr(exc))}") from None
    return lambda size: network(channels=channels, classes=classes, size=size)


class _FolderFinder(MetaPathFinder):
    """Finds top-level modules in one folder: all of them, or only the one called `only`."""

    def __init__(self, folder: str, only: str | None = None) -> None:
        self._folder, self._only = folder, only

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or self._only not in (None, fullname):
            return None
        return PathFinder.find_spec(fullname, [self._folder])


@contextmanager
def _modules_from(folder: str, *, first: str) -> Iterator[None]:
    """Inside, modules in `folder` can be imported too: `first` before an installed one, all others after.

    `first` is looked up last as well if the name belongs to Python or to a package that netkit depends on. What was
    imported stays imported, so that torch.compile and torch.export find the module of a class by its name.
    """
    finders = [_FolderFinder(folder)]
    sys.meta_path.append(finders[0])
    if not _is_reserved(first):
        finders.append(_FolderFinder(folder, only=first))
        sys.meta_path.insert(0, finders[1])
    try:
        yield
    finally:
        for finder in finders:
            sys.meta_path.remove(finder)


def _is_reserved(name: str) -> bool:
    """Whether the module `name` is Python's own, or that of a package which netkit depends on."""
    if name in sys.stdlib_module_names:
        return True
    if PathFinder.find_spec(name) is None:  # the usual case; what follows reads the metadata of all packages
        return False
    required = {_normalized(requirement) for requirement in metadata.requires("netkit") or ()}
    return any(_normalized(package) in required for package in metadata.packages_distributions().get(name, ()))


def _normalized(requirement: str) -> str:
    """The package's name in a requirement such as 'scikit_learn>=1.6', as PyPI normalizes names: 'scikit-learn'."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name.group().lower()) if name else ""


def _checked(arch: str, make: Make, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """The network that `make` makes for images of that shape; UsageError if it cannot take them."""
    if (problem := _problem(make, channels, classes, size)) is None:
        return make(size)
    fits = next((side for side in CANDIDATE_SIDES if not _problem(make, channels, classes, (side, side))), None)
    least = _least_side(make, channels, classes, fits) if fits else None
    hint = f"; the least that it takes is {least}x{least}" if least else ""
    raise UsageError(f"{arch} cannot take {size[0]}x{size[1]} images of {channels} channels: {problem}{hint}")


def _problem(make: Make, channels: int, classes: int, size: tuple[int, int]) -> str | None:
    """Why the network cannot take such images, or None; found on the meta device, without memory and arithmetic."""
    try:
        with torch.device("meta"), torch.no_grad():
            logits = make(size).eval()(torch.zeros(2, channels, *size))
    except Exception as exc:  # the user's code can raise anything
        return one_line(str(exc) or type(exc).__name__)[:200]
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    return None if shape == (2, classes) else f"it gives {shape} for 2 images, not logits of (2, {classes})"


def _least_side(make: Make, channels: int, classes: int, fits: int) -> int:
    """The smallest side of a square that the network takes, found by bisection below a side that fits."""
    too_small = 0
    while fits - too_small > 1:
        middle = (too_small + fits) // 2
        if _problem(make, channels, classes, (middle, middle)):
            too_small = middle
        else:
            fits = middle
    return fits
