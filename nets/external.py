"""Networks from outside netkit: torchvision's classifiers, and the user's classes, named MODULE:CLASS."""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from traceback import extract_tb
from types import ModuleType

import torch
from torch import nn

from netkit.core.errors import UsageError, one_line
from netkit.core.runs import TORCHVISION, required_channels

# with auxiliary heads, these networks return several outputs in training mode
WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
MAX_SUGGESTIONS = 5
LIST_NAMES = 'python -c "from torchvision import models; print(*models.list_models(module=models))"'
CANDIDATE_SIDES = (32, 64, 128, 224, 256, 384, 512)  # pixels; most networks support one of them

# the last line of a traceback outside of these files is the user's
NOT_USER_CODE = (__file__, str(importlib.__file__), os.path.dirname(torch.__file__) + os.sep, "<frozen ")

Factory = Callable[[tuple[int, int]], nn.Module]


def create(name: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """Create the network `name` for images (channels, *size), with random weights.

    Raises UsageError if the network is unknown or cannot take images of this shape; the message then contains a square
    size that it can take.
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
        close = difflib.get_close_matches(name, known, n=MAX_SUGGESTIONS, cutoff=0.5)
        question = f"did you mean {', '.join(f'{TORCHVISION}{other}' for other in close)}? " if close else ""
        raise UsageError(f"unknown architecture {arch!r}: {question}to list the names, run: {LIST_NAMES}")
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
    names = (*module_name.split("."), class_name)
    if not all(map(str.isidentifier, names)) or module_name.endswith(".py"):
        raise UsageError(f"{arch}: not MODULE:CLASS; for the class Net in mynets.py, pass mynets:Net")
    try:
        module = import_module(module_name)
    except Exception as exc:  # the user's code can raise anything
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{module_name}.".startswith(f"{exc.name}."):
            raise UsageError(f"{arch}: no module {module_name} in the current directory or on Python's path") from None
        raise UsageError(f"{arch}: {module_name} cannot be imported: {_cause(exc)}") from None
    if not hasattr(module, class_name):
        raise UsageError(f"{arch}: {module_name} has no class {class_name!r}")
    network = getattr(module, class_name)
    if not callable(network):
        raise UsageError(f"{arch}: is of type {type(network).__name__}, not a subclass of torch.nn.Module")

    def make(size: tuple[int, int]) -> nn.Module:
        try:
            instance = network(channels=channels, classes=classes, size=size)
        except Exception as exc:  # as above
            call = f"{class_name}(channels={channels}, classes={classes}, size={size})"
            hint = "; a network class takes these three arguments" if isinstance(exc, TypeError) else ""
            raise UsageError(f"{call} failed: {_cause(exc)}{hint}") from None
        if not isinstance(instance, nn.Module):
            raise UsageError(f"{class_name} is not a subclass of torch.nn.Module")
        return instance

    return make


def _cause(exc: Exception) -> str:
    """Return the message of an exception, with the user's line that caused it."""
    text = one_line(str(exc) or type(exc).__name__)[:200]
    if "meta tensor" in text:  # netkit runs the network on the meta device, where tensors have shapes but no values
        text = "Python code reads the values of a tensor, as .item() and 'if' do; ONNX cannot contain this"
    lines = [frame for frame in extract_tb(exc.__traceback__) if not frame.filename.startswith(NOT_USER_CODE)]
    if isinstance(exc, SyntaxError) or not lines:  # the message of a SyntaxError contains its line
        return text
    return f"{text} ({os.path.basename(lines[-1].filename)}, line {lines[-1].lineno})"


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
    if works is None:
        raise UsageError(f"{arch}: {problem}")
    smallest = _smallest_side(make, channels, classes, works)
    images = f"{size[0]}x{size[1]} images with {channels} channel{'' if channels == 1 else 's'}"
    cause = "" if arch.startswith(TORCHVISION) else f": {problem}"
    if min(size) < smallest:
        raise UsageError(f"{arch} cannot take {images}{cause}; the smallest size is --image-size {smallest}")
    multiple = -(-max(size) // smallest) * smallest  # vision transformers take multiples of their patch size
    side = works if _problem(make, channels, classes, (multiple, multiple)) else multiple
    raise UsageError(f"{arch} cannot take {images}{cause}; pass, for example, --image-size {side}")


def _problem(make: Factory, channels: int, classes: int, size: tuple[int, int]) -> str | None:
    """Return why the network cannot take images of this shape, or None. Runs it on the meta device."""
    try:
        with torch.device("meta"), torch.no_grad():
            logits = make(size).eval()(torch.zeros(2, channels, *size))
    except UsageError as exc:
        return str(exc)
    except Exception as exc:  # the user's code can raise anything
        return f"the forward pass of images {(2, channels, *size)} failed: {_cause(exc)}"
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
