"""The netkit command: a group whose commands live in one module each, imported when a command runs.

Importing a command imports what it needs, so `netkit --help` loads no command: it stays as fast as click itself.
"""

import os
from importlib import import_module
from typing import Any, NoReturn

import click

from netkit.cli import process
from netkit.core.errors import unknown_name
from netkit.core.version import VERSION

COMMANDS = {  # name -> short help; the command is in the module of that name
    "train": "Train a network.",
    "export": "Export a trained network to one .onnx file.",
    "verify": "Check a model on this machine.",
    "infer": "Run a model over images, one row per file.",
    "evaluate": "Measure a model on labelled images.",
    "bench": "Measure how fast a model runs here.",
    "doctor": "Check what this machine can run.",
    "import": "Convert PyTorch weights to a .safetensors file.",
    "sample": "Write test images to try infer on.",
    "nets": "Show the networks in numbers.",
}
# How many times idle OpenMP threads spin after an operator before they sleep. With two trainings at once on two cores,
# an epoch of residual on the digits took 0.5 to 25 s with libgomp's default and 0.6 s with this; alone it is the same.
GOMP_SPINCOUNT = "3000"


class LazyGroup(click.Group):
    """A group that imports a command when it is needed, and turns every error into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        attribute = "import_" if name == "import" else name  # `import` is a keyword
        command: click.Command = getattr(import_module(f"netkit.cli.{attribute}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **options: Any) -> NoReturn:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # read when torch loads OpenMP
        process.run(lambda: self._main(*args, **options))

    def _main(self, *args: Any, **options: Any) -> int | None:
        try:
            code: int | None = super().main(*args, **{"prog_name": "netkit", **options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()
            code = exc.exit_code
        except click.Abort:
            code = process.fail("interrupted", process.INTERRUPTED)
        except click.UsageError as exc:
            command = exc.ctx.command_path if exc.ctx else "netkit"
            code = process.fail(f"{exc.format_message()} (see {command} --help)", exc.exit_code)
        return code


# a fixed width: to ask the terminal for its own, click would load shutil, 4 % of what --help takes
@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 100})
@click.version_option(VERSION, prog_name="netkit")
def cli() -> None:
    """Train a small CNN, export it to one ONNX file that verifies itself, and run that file over any number of images.

    \b
    netkit train                     train the inception network on MNIST
    netkit export --arch inception   export it to one .onnx file, checked against PyTorch
    netkit sample images/            write the test images of MNIST, to try it on
    netkit infer images/             run it over files and folders
    """
