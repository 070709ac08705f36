"""The netkit command: a click group that imports the module of a command only when that command is used.

`netkit --help` therefore imports no command module and starts as fast as click itself.
"""

import os
from importlib import import_module
from typing import Any, NoReturn

import click

from netkit.cli import process
from netkit.core.errors import NetkitError, unknown_name
from netkit.core.version import VERSION

COMMANDS = {  # name of the command -> first sentence of its help
    "train": "Train a network and write its weights to a run folder.",
    "export": "Export a trained network to ONNX and check it against PyTorch.",
    "verify": "Check that a model is unchanged and computes the right outputs.",
    "infer": "Classify images and write one row of results per file.",
    "evaluate": "Measure the accuracy of a model on labelled images.",
    "calibrate": "Calibrate the probabilities of a model on labelled images.",
    "bench": "Measure the speed of a model on this machine.",
    "doctor": "Check the installation of netkit, and CUDA if there is a GPU.",
    "import": "Convert a PyTorch state dict to a .safetensors file.",
    "sample": "Write the test images of a data set as PNG files.",
    "nets": "List the networks with parameters, multiply-adds and papers.",
}
# How many times idle OpenMP threads spin after an operator before they sleep. With two training runs at once on two
# cores, an epoch of residual on the digits took 0.5 to 25 s with libgomp's default and 0.6 s with this. A single run
# takes the same time with both.
GOMP_SPINCOUNT = "3000"


class LazyGroup(click.Group):
    """A group that imports commands on demand and reports every error as one line and an exit code."""

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

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MemoryError:
            command = self.get_command(ctx, str(ctx.invoked_subcommand))
            if command and any("--batch-size" in param.opts for param in command.params):
                raise NetkitError("out of memory; a smaller --batch-size may help") from None
            raise
        except click.UsageError as exc:
            # click's parser raises without a context
            if exc.ctx is None and (command := self.get_command(ctx, str(ctx.invoked_subcommand))):
                exc.ctx = click.Context(command, ctx, str(ctx.invoked_subcommand))
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **options: Any) -> NoReturn:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # OpenMP reads it when torch loads it
        os.environ["MPLBACKEND"] = "agg"  # a notebook may set a missing backend; importing matplotlib then fails
        process.run(lambda: self._main(*args, **options))

    def _main(self, *args: Any, **options: Any) -> int | None:
        try:
            code: int | None = super().main(*args, **{"prog_name": "netkit", **options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()
            code = exc.exit_code
        except click.Abort as exc:  # its cause is the KeyboardInterrupt
            code = process.fail("interrupted", process.INTERRUPTED, exc.__cause__)
        except click.UsageError as exc:
            command = exc.ctx.command_path if exc.ctx else "netkit"
            message = _without_wild_guess(exc).removesuffix(".")
            code = process.fail(f"{message[:1].lower()}{message[1:]} (see {command} --help)", exc.exit_code)
        return code


def _without_wild_guess(exc: click.UsageError) -> str:
    """Return click's message, without its "Did you mean" for an option that is similar only by its dashes."""
    if isinstance(exc, click.NoSuchOption) and exc.possibilities:
        import difflib  # here, because the import takes 2 ms and only this error needs it

        names = [name.strip("-") for name in exc.possibilities]
        if not difflib.get_close_matches(exc.option_name.strip("-"), names):
            return exc.message
    return exc.format_message()


# The width is fixed because click imports shutil to measure the terminal, which takes 4 % of the time of --help.
@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 80})
@click.version_option(VERSION, prog_name="netkit")
def cli() -> None:
    """Train a small CNN, export it to one ONNX file that is checked against PyTorch, and classify images.

    \b
    netkit train                    train the inception network on MNIST
    netkit export --arch inception  export it to ONNX and check it against PyTorch
    netkit sample images/           write the test images of MNIST as PNG files
    netkit infer images/            classify all images in that folder

    Exit codes: 0 success; 1 a failure, a failed check or an unreadable input; 2 wrong usage; 129, 130 or 143 stopped by
    SIGHUP, SIGINT or SIGTERM.
    """
