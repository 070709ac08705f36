"""Hints: the last line that a command prints, `next: ...`, which is the next command to type.

It is built from the parsed parameters, not from sys.argv, and runs in a shell as printed.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from netkit.cli import params

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IMAGES = "images/"  # the folder for samples in README
MAX_HINT_PATHS = 3  # a command with more paths is not suggested again


def suggest(command: str, *arguments: str, options: Sequence[str] = (), launcher: Sequence[str] = ()) -> None:
    """Print `next: LAUNCHER netkit COMMAND ARGUMENTS OPTIONS` on stderr. A launcher is, for example, torchrun."""
    words = [command, *arguments, *options]
    if any(argument.startswith("-") and argument != "-" for argument in arguments):  # click would read it as an option
        words = [command, *options, "--", *arguments]
    click.echo(f"next: {' '.join(map(_quoted, (*launcher, 'netkit', *words)))}", err=True)


def suggest_again(*, launcher: Sequence[str] = (), **changes: Any) -> None:
    """Suggest the current command with `changes` to its parameters. None or False removes a parameter."""
    ctx = click.get_current_context()
    arguments: list[str] = []
    options: list[str] = []
    for param in ctx.command.params:
        name = str(param.name)
        typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        value = changes.get(name, ctx.params[name] if typed else None)
        if value is None or value is False:
            continue
        spell = getattr(param.type, "spell", params.spell)
        texts = [spell(item) for item in (value if param.multiple or param.nargs != 1 else [value])]
        if not isinstance(param, click.Option):
            arguments += texts
        elif param.is_flag:
            options.append(param.opts[-1])
        else:
            options += [word for text in texts for word in (param.opts[-1], text)]
    suggest(str(ctx.command.name), *arguments, options=options, launcher=launcher)


def suggest_infer(folder: str = IMAGES, *, model: Path | None = None, options: Sequence[str] = ()) -> None:
    """Suggest running `model`, by default the newest in runs/, on `folder`. If either is missing, suggest the help."""
    options = [*(["--model", str(model)] if model else []), *options]
    if has_images(folder) and (model or _default_models()):
        suggest("infer", folder, options=options)
    else:
        suggest("infer", options=[*options, "--help"])


def has_images(folder: str = IMAGES) -> bool:
    """Whether `folder` exists and is not empty."""
    return os.path.isdir(folder) and bool(os.listdir(folder))


def is_default(model: Path) -> bool:
    """Whether `infer` runs `model`, which was just written, by default: it is runs/*/model.onnx."""
    return model.resolve() in _default_models()


def _default_models() -> list[Path]:
    from pathlib import Path

    from netkit.core.runs import MODEL

    return [path.resolve() for path in Path("runs").glob(f"*/{MODEL}")]


def _quoted(word: str) -> str:
    """Quote `word` for a shell. Characters that a terminal cannot show are escaped: a line break is $'\\x0a'."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "'\\" else character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
