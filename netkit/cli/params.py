"""Parameter types and options that several commands share.

Types import the modules that they need when they convert a value, so that `netkit COMMAND --help` stays fast. The
method `spell` of a type turns a converted value back into the text that the option takes; see netkit.cli.hints.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from netkit.core.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


class Option(click.Option):
    """An option whose help omits the range of a number, and the parentheses around a default that is not a value."""

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)  # the help text names the range if users need it
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


class Number(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A whole number (`kind` is int) or any number (float) but NaN, of at least `low`, or above it, and at most `high`.

    A wrong value raises a UsageError in plain words, unlike click's own types.
    """

    def __init__(
        self, kind: type[int] | type[float], low: float = -math.inf, high: float = math.inf, *, above: bool = False
    ) -> None:
        self.name = "integer" if kind is int else "float"
        self.kind, self.low, self.high, self.above = kind, low, high, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = self.kind(value)
        except ValueError:
            number = math.nan
        if self.low <= number <= self.high and not (self.above and number == self.low):
            return number
        name = param.opts[-1] if param else self.name
        repeat = f"; repeat {name} for each value" if param and param.multiple else ""
        raise UsageError(f"{name} {value}: must be {self._limit(number)}{repeat}")

    def _limit(self, number: float) -> str:
        if number > self.high:
            return f"at most {self.high:,}"
        noun = "a whole number" if self.kind is int else "a number"
        if self.low == -math.inf:
            return noun
        return f"{noun} above {self.low}" if self.above else f"{noun}, {self.low} or more"


class LazyChoice(click.ParamType):  # type: ignore[type-arg]  # as above
    """A choice between names that are looked up when needed. An unknown name raises an error with a suggestion."""

    def __init__(self, kind: str, names: Callable[[], Iterable[str]]) -> None:
        self.name, self.names = kind, names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = list(self.names())
        if value not in names:
            raise unknown_name(self.name, value, names)
        return value


class ArchitectureChoice(LazyChoice):
    """A netkit architecture, torchvision/NAME, timm/NAME or MODULE:CLASS. All but the first are checked later."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "ARCH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from netkit.core.runs import is_external

        if is_external(value):
            return value
        if value not in self.names():
            with suppress(ModuleNotFoundError):  # torch may be missing
                from netkit.nets.external import torchvision_names  # takes seconds, so only after a typo

                if value in torchvision_names():
                    raise UsageError(f"unknown {self.name} {value!r}: did you mean 'torchvision/{value}'?")
        return super().convert(value, param, ctx)


class ChoiceList(click.ParamType):  # type: ignore[type-arg]  # as above
    """Several names of a choice, separated by commas."""

    name = "names"

    def __init__(self, choice: LazyChoice) -> None:
        self.choice = choice

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "NAME,NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.choice.convert(part, param, ctx) for part in value.split(",")))

    def spell(self, value: tuple[str, ...]) -> str:
        return ",".join(value)


class Converter(click.ParamType):  # type: ignore[type-arg]  # as above
    """Apply a function to the text of the option. Its ValueError becomes a UsageError that names the option."""

    def __init__(self, metavar: str, convert_text: Callable[[str], object], *, spell: Callable[..., str] = str) -> None:
        self.name, self.convert_text, self.spell = metavar, convert_text, spell

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return self.convert_text(value)
        except ValueError as exc:
            raise UsageError(f"{param.opts[-1] if param else self.name}: {exc}") from None


def _path(text: str) -> Path:
    """A path that need not exist. click.Path would import pathlib even for --help."""
    from pathlib import Path

    if not text:
        raise ValueError("the path is empty")
    return Path(text)


def _size(text: str) -> tuple[int, int]:
    """Height and width from HxW or N."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ValueError(f"{text!r} is not an image size; pass N or HEIGHTxWIDTH, e.g. 64 or 48x64")
    return int(sides[0]), int(sides[-1])


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"{text!r} is not a comma-separated list of numbers") from None


def _architectures() -> Iterable[str]:
    from netkit.nets.build import ARCHITECTURES

    return ARCHITECTURES


def _devices() -> Iterable[str]:
    from netkit.api.arguments import DEVICES

    return DEVICES


def _layouts() -> Iterable[str]:
    from netkit.data.options import LAYOUTS

    return LAYOUTS


def _variants() -> Iterable[str]:
    from netkit.core.runs import MODELS

    return MODELS


def spell(value: object) -> str:
    """The text of a value, for types that have no method `spell`."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


ARCHITECTURE = ArchitectureChoice("architecture", _architectures)
VARIANT = LazyChoice("precision", _variants)
WHOLE_NUMBER, NUMBER = Number(int), Number(float)
COUNT = Number(int, 1, 1_000_000)
PATH = Converter("PATH", _path)
SIZE = Converter("N|HxW", _size, spell=lambda size: f"{size[0]}x{size[1]}")
NUMBERS = Converter("F,F,F", _numbers, spell=lambda numbers: ",".join(map(spell, numbers)))

option = partial(click.option, cls=Option, show_default=True)
arch_option = partial(option, "--arch", type=ARCHITECTURE)
data_option = partial(option, "--data", metavar="DATA")
batch_size_option = option("--batch-size", type=COUNT, metavar="N", default=64, help="Images per batch.")
_device_option = partial(option, "--device", type=LazyChoice("device", _devices), metavar="NAME", default="auto")
device_option = _device_option(help="cpu, cuda, or auto: CUDA if it works.")
every_device_option = _device_option(help="cpu, cuda, or auto: both if CUDA works.")
invert_option = option("--invert", is_flag=True, help="Invert pixel values, for dark ink on white paper.")
max_bytes_option = option(
    "--max-bytes", type=Number(int, 1), metavar="N", default=64 * 2**20,
    help="Largest file, in bytes.", show_default="64 MiB",
)  # fmt: skip
max_pixels_option = option(
    "--max-pixels", type=Number(int, 1), metavar="N", default=64_000_000,
    help="Largest image, in pixels.", show_default="64 million",
)  # fmt: skip
layout_option = partial(
    option, "--layout", type=LazyChoice("layout", _layouts), metavar="NAME",
    help="Subfolders: splits, classes, auto.",
)  # fmt: skip
path_column_option = partial(option, "--path-column", metavar="NAME", help="Table column with paths.")
label_column_option = partial(option, "--label-column", metavar="NAME", help="Table column with labels.")
no_verify_option = option(
    "--no-verify", "unverified", is_flag=True, help="Use the model even if it fails a check, with a warning."
)
json_option = option("--json", "as_json", is_flag=True, help="Print results as JSON, one object per line.")


def labelled_images_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that runs a model on labelled images: which images, and how to read and run them."""
    as_trained = {"show_default": "as trained"}
    options = (
        data_option(help="Labelled images, as in 'netkit train'."),
        layout_option(**as_trained), path_column_option(**as_trained), label_column_option(**as_trained),
        device_option, batch_size_option, invert_option, max_bytes_option, max_pixels_option,
    )  # fmt: skip
    for add_option in reversed(options):
        command = add_option(command)
    return command
