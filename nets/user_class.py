"""The user's networks, named MODULE:CLASS, and the import of their modules from the current directory."""

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

from netkit.core.errors import ModelError, UsageError, one_line

# the last line of a traceback outside of these files is the user's
NOT_USER_CODE = tuple(os.path.dirname(file) + os.sep for file in (__file__, importlib.__file__, torch.__file__))


def factory(arch: str, channels: int, classes: int) -> Callable[[tuple[int, int]], nn.Module]:
    """Import the class `arch`, MODULE:CLASS, and return a function that creates it for images of a given size.

    Raises UsageError if the module or the class cannot be imported. The function raises UsageError if the class fails.
    """
    module_name, _, class_name = arch.partition(":")
    names = (*module_name.split("."), class_name)
    if not all(map(str.isidentifier, names)) or module_name.endswith(".py"):
        raise UsageError(f"{arch}: not MODULE:CLASS; for the class Net in mynets.py, pass mynets:Net")
    try:
        module = import_module(module_name)
    except Exception as exc:  # the user's code can raise anything
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{module_name}.".startswith(f"{exc.name}."):
            raise UsageError(f"{arch}: no module {module_name} in the current directory or on Python's path") from None
        raise UsageError(f"{arch}: {module_name} cannot be imported: {cause(exc)}") from None
    if not hasattr(module, class_name):
        raise UsageError(f"{arch}: {module_name} has no class {class_name!r}")
    network = getattr(module, class_name)
    if not callable(network):
        raise UsageError(f"{arch}: is of type {type(network).__name__}, not a subclass of torch.nn.Module")

    def make(size: tuple[int, int]) -> nn.Module:
        try:
            instance = network(channels=channels, classes=classes, size=size)
        except ModelError:
            raise
        except Exception as exc:  # as above
            call = f"{class_name}(channels={channels}, classes={classes}, size={size})"
            hint = "; a network class takes these three arguments" if isinstance(exc, TypeError) else ""
            raise UsageError(f"{call} failed: {cause(exc)}{hint}") from None
        if not isinstance(instance, nn.Module):
            raise UsageError(f"{class_name} is not a subclass of torch.nn.Module")
        return instance

    return make


def cause(exc: Exception) -> str:
    """Return the message of an exception, with the user's line that caused it."""
    text = one_line(str(exc) or type(exc).__name__)[:200]
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
def modules_from(folder: str, *, first: str) -> Iterator[None]:
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
