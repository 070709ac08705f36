"""netkit infer."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from netkit.api.progress import progress_bar
from netkit.cli import hints
from netkit.cli.console import open_terminal
from netkit.cli.params import (
    COUNT,
    PATH,
    LazyChoice,
    arch_option,
    batch_size_option,
    device_option,
    invert_option,
    json_option,
    max_bytes_option,
    max_pixels_option,
    no_verify_option,
    option,
)
from netkit.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = LazyChoice("engine", lambda: ["local", "ray"])


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...")
@option("--model", type=PATH, help="An .onnx file.  [default: the newest in runs/]")
@arch_option(help="The model in runs/<arch>.")
@device_option
@batch_size_option
@option("--threads", type=COUNT, metavar="N", help="Batches at once.  [default: one per core]")
@option("--top-k", type=COUNT, metavar="N", default=1, help="Labels per image.")
@invert_option
@max_bytes_option
@max_pixels_option
@option("-0", "nul", is_flag=True, help="Paths on stdin end with NUL, not with a new line: find ... -print0")
@no_verify_option
@option("--out", type=PATH, help="A .csv, .jsonl or .parquet file; with ray a folder.  [default: stdout]")
@option("--resume", is_flag=True, help="Continue the run into --out that was stopped.")
@option("--engine", type=ENGINE, default="local", help="ray: share the work among workers.")
@option("--workers", type=COUNT, metavar="N", help="Ray workers.  [default: one per core]")
@option("--address", help="Ray cluster: auto, [ray://]HOST:PORT.  [default: a new one]")
@json_option
def infer(paths: tuple[str, ...], nul: bool, unverified: bool, out: Path | None, as_json: bool, **options: Any) -> None:
    """Run a model over images, one row per file.

    PATHS are files, folders (with all folders in them) and globs, here or behind URLs such as s3://bucket/images;
    Parquet files, for the paths in their column 'path'; and -, for a list of files on stdin. Rows go to stdout: a table
    on a terminal, else CSV. Exits with 1 if a file could not be read.
    """
    from netkit.infer import engines

    if out is not None and as_json:
        raise UsageError("--json writes rows to stdout and --out to a file: choose one")
    terminal = open_terminal()
    show = terminal.is_terminal and (out is not None or _is_file(sys.stdout))  # a bar would run through rows
    with progress_bar("infer", console=terminal) as progress:
        outcome = engines.infer(
            paths,
            separator=b"\0" if nul else b"\n",
            verify=not unverified,
            out=out,
            as_json=as_json,
            progress=progress if show else None,
            **options,
        )
    sys.stdout.flush()
    terminal.print(str(outcome))
    _suggest(paths, out, options)
    if outcome.counts.failed:
        click.get_current_context().exit(1)


def _suggest(paths: tuple[str, ...], out: Path | None, options: dict[str, Any]) -> None:
    if options["engine"] != "local" or len(paths) > hints.MAX_HINT_PATHS:
        return
    if out is None:
        hints.suggest_again(out="results.csv", as_json=None)
    elif options["top_k"] == 1:
        hints.suggest_again(top_k=3, resume=None)


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False
