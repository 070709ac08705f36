"""netkit's command line: what can be typed, and what it calls. Errors become a line and an exit code in cli.process.

Commands import what they need when they run: `netkit --help` loads neither torch, onnxruntime nor numpy.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from netkit.cli import process
from netkit.core.errors import Interrupted, TrainingError, UsageError, one_line, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netkit.cli.console import Terminal

CHANGES = ("epochs", "batch_size", "lr", "ema", "precision")  # what train's options change in its recipe
PREPARATION = ("channels", "size", "resize", "mean", "std", "val_split")  # and in netkit.data.options.Options
# How long torch's threads turn in circles after an operator before they sleep. Two trainings at once on two cores took
# 0.5 to 25 s for an epoch of residual on the digits by libgomp's own choice, 0.6 s by this one; alone the same.
SPINS = "3000"
FEW = 3  # paths that are worth typing again


class Commands(click.Group):
    """The group of netkit's commands. No traceback reaches a user: each error is one line and an exit code."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        process.run(lambda: self._main(*args, **options))

    def _main(self, *args: Any, **options: Any) -> int | None:
        try:
            code: int | None = super().main(*args, **{"prog_name": "netkit", **options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as fault:
            fault.show()
            code = fault.exit_code
        except click.Abort:
            code = process.fail("interrupted", process.INTERRUPTED)
        except click.UsageError as fault:
            command = fault.ctx.command_path if fault.ctx else "netkit"
            code = process.fail(f"{fault.format_message()} (see {command} --help)", fault.exit_code)
        return code


class Name(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """One of some known names, which are looked up only when needed; an unknown one is answered with the closest."""

    def __init__(self, kind: str, known: Callable[[], list[str]]) -> None:
        self.name = kind
        self.known = known

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.known())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.known():
            raise unknown_name(self.name, value, self.known())
        return value


class Architecture(Name):
    """One of netkit's own, torchvision/NAME, or MODULE:CLASS; those are looked up where they are built."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.known())}|torchvision/NAME|MODULE:CLASS]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from netkit.core.runs import is_foreign

        if is_foreign(value):
            return value
        if value not in self.known():
            with suppress(ModuleNotFoundError):  # where there is no torch
                from netkit.nets.external import torchvision_names  # seconds that only a mistake should cost

                if value in torchvision_names():
                    raise UsageError(f"unknown {self.name} {value!r}: did you mean 'torchvision/{value}'?")
        return super().convert(value, param, ctx)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # as above
    """What a function makes of the text; what the function says against it is told with the option's name."""

    def __init__(self, name: str, metavar: str, parse: Callable[[str], object]) -> None:
        self.name, self.metavar, self.parse = name, metavar, parse

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.metavar

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return self.parse(value)
        except ValueError as fault:
            raise UsageError(f"{param.opts[-1] if param else self.name}: {fault}") from None


class Names(click.ParamType):  # type: ignore[type-arg]  # as above
    """Several of some known names, with commas between."""

    name = "names"

    def __init__(self, each: Name) -> None:
        self.each = each

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "NAME,NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.each.convert(part, param, ctx) for part in value.split(",")))


def _path(text: str) -> Path:
    """A path, whether or not something is there. click.Path would load pathlib for --help, a tenth of its time."""
    from pathlib import Path

    if not text:
        raise ValueError("an empty path")
    return Path(text)


def _size(text: str) -> tuple[int, int]:
    """Height and width: 64 stands for 64x64."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and (width or height).isdecimal() and int(height) and int(width or height)):
        raise ValueError(f"{text!r} is no size: 64 stands for 64x64, 48x64 for a height and a width")
    return int(height), int(width or height)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"{text!r} are no numbers with commas between") from None


def _architectures() -> list[str]:
    from netkit.nets.build import ARCHITECTURES

    return list(ARCHITECTURES)


def _recipes() -> list[str]:
    from netkit.nets.training.recipe import ALIASES, RECIPES

    return [*RECIPES, *ALIASES]


OWN = Name("architecture", _architectures)
ARCH = Architecture("architecture", _architectures)
RECIPE = Name("recipe", _recipes)
DEVICES = ["auto", "cpu", "cuda"]
DEVICE = Name("device", lambda: DEVICES)
PRECISION = Name("precision", lambda: ["auto", "fp32", "bf16", "fp16"])
ENGINE = Name("engine", lambda: ["local", "ray"])
VARIANT = Name("precision", lambda: ["fp32", "fp16", "int8"])
DATA = "DIR: class folders of images, or files in MNIST's format; FILE.csv: columns path, label and maybe split."
COUNT = click.IntRange(min=1, max=1_000_000)
PATH = Parsed("path", "PATH", _path)
SIZE = Parsed("size", "N|HxW", _size)
NUMBERS = Parsed("numbers", "F,F,F", _numbers)

option = partial(click.option, show_default=True)
arch_option = partial(option, "--arch", type=ARCH)
data_option = partial(option, "--data", metavar="[mnist|digits|DIR|FILE.csv]")
device_option = option("--device", type=DEVICE, default="auto", help="Where to run; auto: CUDA where it works.")
invert_option = option("--invert", is_flag=True, help="Swap dark and light: for dark ink on white paper.")
max_bytes_option = option("--max-bytes", type=click.IntRange(1), default=64 * 2**20, help="The largest file to read.")
max_pixels_option = option(
    "--max-pixels", type=click.IntRange(1, 178_000_000), default=24_000_000, help="The largest image."
)
no_verify_option = option(
    "--no-verify", "unverified", is_flag=True, help="Use a model that does not prove itself here, too."
)
json_option = option("--json", "as_json", is_flag=True, help="Results as JSON, one object a line.")


# a fixed width: to ask the terminal for its own, click would load shutil, 4 % of what --help takes
@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 80})
@click.version_option(package_name="netkit")
def cli() -> None:
    """Train a small CNN, turn it into one trustworthy ONNX file, and run it fast over any number of images.

    \b
    netkit train                     train the inception net on MNIST
    netkit export --arch inception   make it one .onnx file, checked by PyTorch
    netkit sample images/            write MNIST's test images, to try it on
    netkit infer images/             run it over files and folders
    """


@cli.command()
@arch_option(default="inception", help="Which net to train.")
@data_option(default="mnist", help=DATA)
@option("--image-size", "size", type=SIZE, help="What images are scaled to.  [default: the size that all of them have]")
@option("--resize", type=COUNT, help="Scale the shorter side to it, and cut --image-size from the middle.")
@option("--channels", type=int, metavar="[1|3]", help="1: grey, 3: RGB.  [default: as the images are]")
@option("--mean", type=NUMBERS, help="To subtract, one a channel, for pixels in [0, 1].  [default: the images']")
@option("--std", type=NUMBERS, help="To divide by, then.  [default: the images']")
@option("--val-split", type=float, default=0.2, help="Share of each class to test on, where there is no test/ or val/.")
@option("--weights", type=PATH, help="A .safetensors file to begin with; see 'netkit import'.")
@option("--recipe", "recipe_name", type=RECIPE, default="fast", help="How to train; 'baseline' is plain SGD.")
@option("--epochs", type=float, help="Passes over the training images; 0.5 is half of one.  [default: the recipe's]")
@option("--batch-size", type=COUNT, help="Images a step.  [default: the recipe's]")
@option("--lr", type=float, help="Learning rate, at its highest.  [default: the recipe's]")
@option("--ema", type=float, help="Decay of the weights' average; 0: none.  [default: the recipe's]")
@option("--precision", type=PRECISION, help="What convolutions compute in.  [default: the recipe's]")
@option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Where all randomness starts.")
@device_option
@option("--out", type=PATH, help="Folder of the run.  [default: runs/<arch>]")
@option("--resume", is_flag=True, help="Go on with the run in the folder, where one was stopped.")
@option("--compile", "compiled", is_flag=True, help="Compile the step: takes up to 40 s to start; no faster on CPUs.")
@option("--deterministic", is_flag=True, help="On CUDA too, the same weights each time; slower.")
@option("--tensorboard", is_flag=True, help="Leave logs for TensorBoard in the run's folder, too.")
@json_option
def train(arch: str, data: str, recipe_name: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Train a net.

    Leaves model.safetensors (weights and card), metrics.csv, run.json and pictures in a folder.
    """
    from dataclasses import replace

    from netkit.cli.console import progress
    from netkit.core.runs import is_users, only_channels, run_folder
    from netkit.data import registry
    from netkit.data.options import Options
    from netkit.nets.training import distributed, run, stopping
    from netkit.nets.training.recipe import recipe_named
    from netkit.nets.training.schedule import EpochSchedule

    here = distributed.from_environment()
    first = here.first
    terminal = _terminal(quiet=not first)
    wanted = {name: value for name in PREPARATION if (value := options.pop(name)) is not None}
    asked = Options(**{"channels": only_channels(arch), **wanted}, seed=options["seed"])
    loaded = registry.load(data, asked)
    changes = {name: options.pop(name) for name in CHANGES}
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = replace(recipe_named(recipe_name, arch=arch), **given)
    if changes["epochs"] is None:
        recipe = recipe.stretched_to(len(loaded.train_labels))
    plan = run.Plan(arch=arch, recipe=recipe, out=out or run_folder(arch), **options)
    with (
        stopping.noted() as stop,
        progress(terminal, arch, total=EpochSchedule(recipe, len(loaded.train_labels)).images) as advance,
    ):
        callbacks = run.Callbacks(on_step=advance, on_epoch=lambda row: terminal.print(f"epoch {row}"), stop=stop)
        try:
            trained = run.train(plan, loaded, callbacks)
        except (Interrupted, TrainingError) as fault:
            if not first:  # all stop alike, and the first one tells it
                click.get_current_context().exit(fault.exit_code)
            if isinstance(fault, Interrupted):
                _next(*here.launcher(), "netkit", *(word for word in sys.argv[1:] if word != "--resume"), "--resume")
            raise
    if not first:
        return
    accuracy = trained.card.origin.test_accuracy
    text = f"{trained.weights}: test accuracy {accuracy:.2%}"
    _answer(text, as_json, weights=str(trained.weights), test_accuracy=accuracy)
    words = (["--run", str(out)] if out else []) + (["--arch", arch] if not out or is_users(arch) else [])
    _next("netkit", "export", *words)


@cli.command()
@arch_option(help="The run in runs/<arch>.")
@option("--run", type=PATH, help="The run in that folder.  [default: the newest in runs/]")
@option("--weights", type=PATH, help="A .safetensors file that 'train' wrote, wherever it lies.")
@data_option(help="Where the run's data set lies.  [default: where it lay]")
@option("--out", type=PATH, help="File to write, .onnx.  [default: model.onnx in the run]")
@option("--opset", type=int, help="ONNX operator set, 18 to 23.  [default: 20]")
@option("--precision", type=VARIANT, default="fp32", help="What the model computes in; fp16 is for CUDA.")
@option("--variants", type=Names(VARIANT), help="Several precisions, as fp32,int8, and a table of them.")
@option("--max-drop", type=click.FloatRange(0, 100), default=0.1, help="Points of accuracy fp16 and int8 may lose.")
@option(
    "--pad-channels", type=click.IntRange(1, 64), metavar="N", help="Fill convolutions' channels up to a multiple of N."
)
@json_option
def export(
    arch: str | None,
    run: Path | None,
    weights: Path | None,
    data: str | None,
    out: Path | None,
    opset: int | None,
    precision: str,
    variants: tuple[str, ...] | None,
    max_drop: float,
    pad_channels: int | None,
    as_json: bool,
) -> None:
    """Turn a trained net into one .onnx file.

    The model takes pixels and carries its card and the proof that it computes what PyTorch computes, which 'verify'
    repeats on any machine; without such proof none is written. parity.md beside it shows it to people.

    Where a net's channels are no multiple of 16, as densenet's 24, --pad-channels 16 adds channels of zeros: that fp32
    model computes the same, faster on processors with AVX-512, and slower on others.
    """
    from dataclasses import asdict

    from netkit.cli.console import print_table
    from netkit.core.runs import MODELS, WEIGHTS, choose
    from netkit.data import registry
    from netkit.export import exporter
    from netkit.export.convert import OPSET
    from netkit.export.parity import report
    from netkit.nets.training import checkpoint
    from netkit.nets.training.record import data_of

    if out is not None and variants:
        raise UsageError("--out names one file, and --variants makes several: choose one")
    if run is not None and weights is not None:
        raise UsageError("--run and --weights: choose one")
    wanted = variants or (precision,)
    if pad_channels and "fp32" not in wanted:
        raise UsageError(f"--pad-channels is for fp32, not for {' and '.join(wanted)}")
    terminal = _terminal()
    source = choose(WEIGHTS, file=weights or (run and run / WEIGHTS), arch=None if weights or run else arch)
    net, card = checkpoint.load(source, trusted=arch)
    if arch and card.arch != arch:
        raise UsageError(f"{source}: holds the net {card.arch}, not {arch}")
    data_set = data_of(source.parent, card, source=data)
    paths = {each: out or source.parent / MODELS[each] for each in wanted}
    with terminal.status("converting, and comparing with PyTorch in float64"):
        certificates = exporter.export(
            net,
            paths,
            card=card,
            data=data_set,
            opset=OPSET if opset is None else opset,
            max_drop=max_drop / 100,
            multiple=pad_channels or 1,
        )
    if as_json:
        for each, certificate in certificates.items():
            figures = asdict(report.figures(paths[each])) if variants else {}
            _answer("", as_json, **{"model": str(paths[each]), **asdict(certificate), **figures})
    elif variants:
        print_table([asdict(report.figures(paths[each])) for each in wanted])
    else:
        _answer(f"{paths[precision]}: {certificates[precision]}", as_json)
    if pictures := registry.pictures(data_set):
        _next("netkit", "infer", str(pictures))
    else:
        _next("netkit", "sample", "images/", "--data", registry.spell(data_set))


@cli.command("import")
@click.argument("file", type=PATH, metavar="FILE.pth")
@option("--out", type=PATH, help="File to write, .safetensors.  [default: beside it]")
def import_(file: Path, out: Path | None) -> None:
    """Make PyTorch's weights a .safetensors file.

    A state dict is read without running code that may be in it; 'train --weights' begins with it.
    """
    from netkit.nets.training import weights

    out = out or file.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: weights are written as .safetensors")
    click.echo(f"{out}: {weights.convert(file, out):,} tensors")
    _next("netkit", "train", "--weights", str(out), "--arch", "NAME")


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...")
@option("--model", type=PATH, help="An .onnx file.  [default: the newest in runs/]")
@arch_option(help="The model in runs/<arch>.")
@device_option
@option("--batch-size", type=COUNT, default=64, help="Images that the net takes at once.")
@option("--threads", type=COUNT, help="Batches at work at once.  [default: one for each core this process may use]")
@option("--top-k", type=COUNT, default=1, help="Labels to give for each image; at most all there are.")
@invert_option
@max_bytes_option
@max_pixels_option
@option("-0", "nul", is_flag=True, help="Paths on stdin end with NUL, not with a new line: find ... -print0")
@no_verify_option
@option("--out", type=PATH, help="Results file, .csv, .jsonl or .parquet; with ray a folder.  [default: stdout]")
@option("--resume", is_flag=True, help="Go on with the run into --out that was stopped.")
@option("--engine", type=ENGINE, default="local", help="What runs it: ray shares the work out among workers.")
@option("--workers", type=COUNT, help="Those of --engine ray.  [default: one for each core here]")
@option("--address", help="Ray's cluster: HOST:PORT, auto, or ray://HOST:PORT.  [default: made on this machine alone]")
@json_option
def infer(
    paths: tuple[str, ...],
    model: Path | None,
    arch: str | None,
    device: str,
    batch_size: int,
    threads: int | None,
    top_k: int,
    invert: bool,
    max_bytes: int,
    max_pixels: int,
    nul: bool,
    unverified: bool,
    out: Path | None,
    resume: bool,
    engine: str,
    workers: int | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Run a model over images, one row a file.

    PATHS are files, folders (with all folders in them) and globs, here or behind URLs as s3://bucket/images; Parquet
    files, for the paths in their column 'path'; and -, for a list of files on stdin. Rows go to stdout: a table on a
    terminal, else CSV. Exits with 1 if a file could not be read.
    """
    from netkit.cli.console import progress
    from netkit.core.remote import is_remote
    from netkit.core.runs import MODEL, choose
    from netkit.images.decoder import Decoder
    from netkit.infer import engines
    from netkit.infer.job import Job
    from netkit.infer.model import onnx_file, verify
    from netkit.infer.output import results_file, writers
    from netkit.infer.pipeline.inputs import STDIN, find_inputs
    from netkit.infer.runtime.session import open_session

    if out is not None and as_json:
        raise UsageError("--json writes rows to stdout and --out to a file: choose one")
    if resume and out is None:
        raise UsageError("--resume goes on with a results file: name it with --out")
    terminal = _terminal()
    runs = engines.chosen(
        engine, out=out, device=device, proven=not unverified, threads=threads, workers=workers, address=address
    )
    if out is not None and resume and engine == "local" and results_file.is_finished(out):  # Ray's manifest says more
        terminal.print(f"{out}: this run has ended: nothing is left to do; leave out --resume to start anew")
        return
    found = find_inputs(
        paths, separator=b"\0" if nul else b"\n"
    )  # first: a wrong name is told before a model is opened
    opened = open_session if unverified else verify.open_proven
    here = "cpu" if engine == "ray" else device  # the workers' machines may have what this one has not
    session = opened(onnx_file.read(choose(MODEL, file=model, arch=arch)), device=here, threads=1)
    decoder = Decoder(session.card.input, invert=invert, largest_file=max_bytes, largest_image=max_pixels)
    top_k = min(top_k, len(session.card.labels))
    sink = out or writers.stdout_writer(as_json=as_json, top_k=top_k)
    job = Job(paths, decoder, batch_size, threads, top_k, sink, resume)
    bar = terminal.is_terminal and (out is not None or _is_file(sys.stdout))  # rows on the screen leave it no room
    countable = STDIN not in paths and not any(map(is_remote, paths))
    total = sum(1 for _ in find_inputs(paths)) if bar and countable else None
    with progress(terminal, "infer", total=total, show=bar) as advance:
        outcome = runs.run(job, session, found, advance=advance)
    sys.stdout.flush()
    terminal.print(str(outcome))
    words = [word for word in sys.argv[1:] if word not in ("--json", "--resume")]
    more = ["--out", "results.csv"] if not out else ["--top-k", str(top_k + 2)] if top_k == 1 else []
    if more and engine == "local" and len(paths) <= FEW and "--" not in words:
        _next("netkit", *words, *more)
    if outcome.tally.failed:
        click.get_current_context().exit(1)


@cli.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@device_option
@json_option
def verify(file: Path, device: str, as_json: bool) -> None:
    """Let a model prove itself on this machine.

    Checks that it is the one that was certified, and runs the images that it carries, on each device that works here
    or on that of --device. Exits with 1 if anything is not as certified.
    """
    from dataclasses import asdict

    from netkit.cli.console import print_table
    from netkit.core.runs import MODEL, choose
    from netkit.infer.model import onnx_file, verify

    _terminal()
    findings = [
        asdict(finding) for finding in verify.verify(onnx_file.read(choose(MODEL, file=file, arch=None)), device=device)
    ]
    if as_json:
        for finding in findings:
            _answer("", as_json, **finding)
    else:
        print_table([{**finding, "right": "yes" if finding["right"] else "NO"} for finding in findings])
    if not all(finding["right"] for finding in findings):
        click.get_current_context().exit(1)
    _next("netkit", "infer", f"images{os.sep}", "--model", str(file))


@cli.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@data_option(help="DIR: all images of its class folders, or those in its test/ or val/.  [default: the model's]")
@device_option
@option("--batch-size", type=COUNT, default=64, help="Images that the net takes at once.")
@invert_option
@max_bytes_option
@max_pixels_option
@no_verify_option
@option("--corrupt", is_flag=True, help="Once more for each of fifteen corruptions: noise, blur, rotation, fog, ...")
@option("--out", type=PATH, help="Report to write, too, with pictures: .html.")
@json_option
def evaluate(
    file: Path,
    data: str | None,
    device: str,
    batch_size: int,
    invert: bool,
    max_bytes: int,
    max_pixels: int,
    unverified: bool,
    corrupt: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say how good a model is, on images whose classes are known.

    Accuracy, precision and recall of each class, how far probabilities are to be believed, and what corruptions of the
    images cost. Exits with 1 if an image could not be read.
    """
    from dataclasses import asdict

    from netkit.cli.console import print_table, progress
    from netkit.core import atomic_io
    from netkit.core.runs import MODEL, choose
    from netkit.data import labelled
    from netkit.images.decoder import Decoder
    from netkit.infer.evaluation import metrics, report
    from netkit.infer.evaluation.corruptions import CORRUPTIONS
    from netkit.infer.model import onnx_file, verify
    from netkit.infer.runtime.session import open_session

    if out is not None:
        if out.suffix.lower() != ".html":
            raise UsageError(f"--out {out}: a report is written as .html")
        atomic_io.refuse(out)
    terminal = _terminal()
    opened = open_session if unverified else verify.open_proven
    session = opened(onnx_file.read(choose(MODEL, file=file, arch=None)), device=device, threads=1)
    tests = labelled.load(data, session.card)
    decoder = Decoder(session.card.input, invert=invert, largest_file=max_bytes, largest_image=max_pixels)
    total = len(tests.truth) * (1 + len(CORRUPTIONS) * corrupt)
    with progress(terminal, "evaluate", total=total) as advance:
        found = metrics.evaluate(
            session,
            tests.inputs,
            tests.truth,
            data=tests.name,
            decoder=decoder,
            batch_size=batch_size,
            corrupt=corrupt,
            advance=advance,
        )
    if as_json:
        _answer("", as_json, **asdict(found), mean_corrupted=found.mean_corrupted)
    else:
        print_table([each.cells for each in found.classes])
        if found.corrupted:
            click.echo()
            print_table(found.corruption_cells)
        click.echo(f"\n{found}")
    if out is not None:
        html = report.page(found, tests.inputs, tests.truth, decoder)
        atomic_io.write_whole(out, html.encode("utf-8", "backslashreplace"))
        terminal.print(f"{out}: the report")
        _next("netkit", "infer", f"images{os.sep}", "--model", str(file))
    else:
        _next("netkit", *(word for word in sys.argv[1:] if word != "--json"), "--out", "report.html")
    if found.unreadable:
        click.get_current_context().exit(1)


@cli.command()
@click.argument("arch", required=False, type=OWN)
@json_option
def nets(arch: str | None, as_json: bool) -> None:
    """Show the nets in numbers.

    Parameters, multiply-adds and source of each, for 28x28 digits; or ARCH alone, layer by layer.
    """
    from dataclasses import asdict

    from netkit.cli.console import print_table
    from netkit.nets import create, summary

    found = summary.layers(create(arch), summary.DIGIT) if arch else map(summary.summary, _architectures())
    table = [asdict(entry) for entry in found]
    if as_json:
        for entry in table:
            _answer("", as_json, **entry)
        return
    print_table(table)
    bottlenecks = summary.bottlenecks(create(arch), summary.DIGIT) if arch else []
    if bottlenecks:
        click.echo("\nMultiply-adds of each k x k convolution through its 1x1 bottleneck, and directly:\n")
        print_table([asdict(entry) for entry in (*bottlenecks, summary.textbook_bottleneck())])
    _next("netkit", "train", "--arch", arch) if arch else _next("netkit", "nets", "inception")


@cli.command()
@click.argument("file", type=PATH, metavar="MODEL.onnx")
@device_option
@option("--batch-size", type=COUNT, multiple=True, help="A size of batches to try.  [default: 1, 4, 16, 64, 256]")
@option("--seconds", type=click.FloatRange(0, 60, min_open=True), default=1.0, help="How long each is tried, at least.")
@json_option
def bench(file: Path, device: str, batch_size: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Measure how fast a model runs here.

    The network alone, on noise: images a second, and latencies in milliseconds, over sizes of batches and threads, on
    each device that works here or on that of --device.
    """
    from dataclasses import asdict

    from netkit.cli.console import print_table
    from netkit.core.runs import MODEL, choose
    from netkit.infer.model import onnx_file
    from netkit.infer.model.certificate import CPU
    from netkit.infer.runtime import bench
    from netkit.infer.runtime.session import device_of

    terminal = _terminal()
    with terminal.status("running the network"):
        found = list(
            bench.sweep(
                onnx_file.read(choose(MODEL, file=file, arch=None)),
                device=device,
                batch_sizes=batch_size or bench.BATCH_SIZES,
                least_s=seconds,
            )
        )
    if as_json:
        for speed in found:
            _answer("", as_json, **asdict(speed))
    else:
        print_table([asdict(speed) for speed in found])
    best = bench.best(found)
    options = ["--batch-size", str(best.batch_size), "--device", device_of(best.provider)]
    if best.provider == CPU:  # a GPU computes one batch at a time, while other threads decode the next ones
        options += ["--threads", str(best.threads)]
    _next("netkit", "infer", f"images{os.sep}", "--model", str(file), *options)


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can run, and what mends it.

    Exits with 1 if anything is wrong.
    """
    from dataclasses import asdict

    from netkit.cli.console import print_table
    from netkit.infer.runtime.doctor import examine

    symptoms = list(examine())
    if as_json:
        for symptom in symptoms:
            _answer("", as_json, **asdict(symptom))
    else:
        print_table([{"what": s.what, "right": "yes" if s.right else "NO", "seen": s.seen} for s in symptoms])
        for symptom in symptoms:
            if symptom.mend:
                click.echo(f"{symptom.what}: {symptom.mend}", err=True)
    if not all(symptom.right for symptom in symptoms):
        click.get_current_context().exit(1)
    _next("netkit", "infer", f"images{os.sep}")


@cli.command()
@click.argument("folder", type=PATH, metavar="DIR")
@data_option(default="mnist", help=DATA)
@option("--count", type=COUNT, help="How many, from the first on.  [default: all]")
def sample(folder: Path, data: str, count: int | None) -> None:
    """Write test images, to try infer on.

    They become DIR/<label>/<index>.png.
    """
    from netkit.data import registry
    from netkit.data.sample import write_sample

    _terminal()
    written = write_sample(registry.load(data), folder, count=count)
    click.echo(f"{folder}: {written:,} images")
    _next("netkit", "infer", f"{folder}{os.sep}")


def _terminal(*, quiet: bool = False) -> Terminal:
    """stderr, showing what netkit's packages have to say."""
    from netkit.cli.console import Terminal

    terminal = Terminal(quiet=quiet)
    terminal.show_log_of("netkit")
    return terminal


def _answer(text: str, as_json: bool, **fields: Any) -> None:
    """A command's result, on stdout."""
    import json

    click.echo(json.dumps(fields) if as_json else text)


def _next(*words: str) -> None:
    """The command to type next."""
    import shlex

    click.echo(f"next: {one_line(shlex.join(words))}", err=True)


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False
