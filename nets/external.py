"""Networks from outside netkit: torchvision's classifiers, and the user's classes, named MODULE:CLASS."""

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

# with auxiliary heads, these networks return several outputs in training mode
WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
CANDIDATE_SIDES = (32, 64, 128, 224, 256, 384, 512)  # pixels; most networks support one of them

Factory = Callable[[tuple[int, int]], nn.Module]


def create(name: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """Create the network `name` for images (channels, *size), with random weights.

    Raises UsageError if the network is unknown or cannot take images of this shape; the message then contains the
    smallest supported square size.
    """
    if name.startswith(TORCHVISION):
        return _create_checked(name, _torchvision_factory(name, channels, classes), channels, classes, size)
    with _modules_from(os.getcwd(), first=re.split("[.:]", name)[0]):
        return _create_checked(name, _user_factory(name, channels, classes), channels, classes, size)


def torchvision_names() -> list[str]:
    """List the names of torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision_factory(arch: str, channels: int, classes: int) -> Factory:
    from torchvision import models

    name = arch.removeprefix(TORCHVISION)
    if name not in (known := torchvision_names()):
        raise unknown_name("architecture", arch, [f"{TORCHVISION}{known_name}" for known_name in known])
    if channels != (required := required_channels(arch)):
        raise UsageError(f"{arch} takes images of {required} channels, not {channels}; pass --channels {required}")
    options = {"num_classes": classes, **WITHOUT_AUXILIARY.get(name, {})}

    def make(size: tuple[int, int]) -> nn.Module:
        image_size = {"image_size": size[0]} if name.startswith("vit_") else {}
        network: nn.Module = models.get_model(name, weights=None, **options, **image_size)
        return network

    return make


def _user_factory(arch: str, channels: int, classes: int) -> Factory:
    module_name, _, class_name = arch.partition(":")
    try:
        network = getattr(import_module(module_name), class_name)
    except AttributeError:
        raise UsageError(f"{arch}: {module_name} has no {class_name}") from None
    except Exception as exc:  # the user's code can raise anything
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{module_name}.".startswith(f"{exc.name}."):
            raise UsageError(f"{arch}: no module {module_name} in the current directory or on Python's path") from None
        raise UsageError(f"{arch}: {module_name} cannot be imported: {one_line(repr(exc))}") from None
    return lambda size: network(channels=channels, classes=classes, size=size)


class _FolderFinder(MetaPathFinder):
    """Finds top-level modules in one folder: all of them, or only the module `only`."""

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
    """Make the modules in `folder` importable inside the context.

    `first` in `folder` has precedence over an installed module, unless its name belongs to the standard library or to a
    package that netkit depends on. Other modules in `folder` come after installed ones. Imported modules stay in
    sys.modules, because torch.compile and torch.export look up the module of a class by name.
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
    """Whether `name` is a module of the standard library or of a package that netkit depends on."""
    if name in sys.stdlib_module_names:
        return True
    if PathFinder.find_spec(name) is None:  # the usual case; the code below reads the metadata of all packages
        return False
    required = {_normalized(requirement) for requirement in metadata.requires("netkit") or ()}
    return any(_normalized(package) in required for package in metadata.packages_distributions().get(name, ()))


def _normalized(requirement: str) -> str:
    """Return the normalized package name in a requirement: 'scikit-learn' for 'scikit_learn>=1.6'."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name.group().lower()) if name else ""


def _create_checked(arch: str, make: Factory, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """Create the network for images of this shape. Raises UsageError if it cannot take them."""
    if (problem := _problem(make, channels, classes, size)) is None:
        return make(size)
    works = next((side for side in CANDIDATE_SIDES if not _problem(make, channels, classes, (side, side))), None)
    smallest = _smallest_side(make, channels, classes, works) if works else None
    hint = f"; the smallest supported size is {smallest}x{smallest}" if smallest else ""
    raise UsageError(f"{arch} cannot take {size[0]}x{size[1]} images of {channels} channels: {problem}{hint}")


def _problem(make: Factory, channels: int, classes: int, size: tuple[int, int]) -> str | None:
    """Return why the network cannot take images of this shape, or None. Runs it on the meta device."""
    try:
        with torch.device("meta"), torch.no_grad():
            logits = make(size).eval()(torch.zeros(2, channels, *size))
    except Exception as exc:  # the user's code can raise anything
        return one_line(str(exc) or type(exc).__name__)[:200]
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    return None if shape == (2, classes) else f"its output for 2 images is {shape}, not logits (2, {classes})"


def _smallest_side(make: Factory, channels: int, classes: int, works: int) -> int:
    """Return the smallest side of a square that the network takes, by bisection below a side that works."""
    too_small = 0
    while works - too_small > 1:
        middle = (too_small + works) // 2
        if _problem(make, channels, classes, (middle, middle)):
            too_small = middle
        else:
            works = middle
    return works
