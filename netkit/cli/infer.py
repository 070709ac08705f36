"""The command `netkit infer`."""

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
    path_column_option,
)
from netkit.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = LazyChoice("engine", lambda: ["local", "ray"])


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...")
@option("--model", type=PATH, help=".onnx file to run.", show_default="newest runs/*/model.onnx")
@arch_option(help="Run runs/ARCH/model.onnx.")
@device_option
@batch_size_option
@option("--threads", type=COUNT, metavar="N", help="Batches to run in parallel.", show_default="one per core")
@option("--top-k", type=COUNT, metavar="N", default=1, help="Most probable labels per image.")
@invert_option
@max_bytes_option
@max_pixels_option
@option("-0", "nul", is_flag=True, help="With -: paths end in NUL, as from 'find -print0'.")
@path_column_option(default="path")
@no_verify_option
@option("--out", type=PATH, help=".csv, .jsonl or .parquet file.", show_default="stdout")
@option("--resume", is_flag=True, help="Continue an interrupted run that writes to --out.")
@option("--old-statuses", is_flag=True, help="Write 'vanished' for 'not-found', as 0.1 did.")
@option("--engine", type=ENGINE, metavar="NAME", default="local", help="local, or ray: run on Ray workers.")
@option("--workers", type=COUNT, metavar="N", help="Ray workers.", show_default="one per core")
@option(
    "--address",
    metavar="CLUSTER",
    help="auto, HOST:PORT or ray://HOST:PORT.",
    show_default="a new one",
)
@json_option
def infer(paths: tuple[str, ...], nul: bool, unverified: bool, out: Path | None, as_json: bool, **options: Any) -> None:
    """Classify images and write one row of results per file.

    PATHS are image files, folders (searched recursively), globs, URLs such as s3://bucket/images, .csv, .tsv or Parquet
    files with a column 'path', or - for a list of paths on stdin. netkit reads PNG, JPEG, BMP, GIF, TIFF, WebP, PGM,
    PPM, AVIF and JPEG 2000. Rows go to stdout: as a table on a terminal, else as CSV. If folders are named after
    labels, netkit also prints the accuracy. Exits with 1 if a file cannot be read.

    The columns are path, label, probability, status, message, and with --top-k label_2, probability_2, ... The status
    is one of:

    \b
    ok, not-found, unreadable, not-an-image, truncated, damaged, too-large,
    unsupported

    --out replaces an existing file. With --engine ray, --out names a folder.

    With --threads N, N batches run in parallel, in processes or threads, but at most one per core. If the first input
    is a URL, N may exceed the number of cores, and the default is at least 16.

    In the name of the folder runs/ARCH, - replaces each /, : and . of ARCH.

    \b
    Example: netkit infer images/ --out results.csv
    """
    from netkit.infer import engines

    if out is not None and as_json:
        raise UsageError("--json writes rows to stdout, but --out writes them to a file: pass only one of them")
    if nul and "-" not in paths:
        raise UsageError("-0 is for paths from stdin; pass - as well")
    terminal = open_terminal()
    show = terminal.is_terminal and (out is not None or _is_file(sys.stdout))  # a bar would overwrite printed rows
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
    if outcome.counts.ok:  # else the same command fails again
        _suggest(paths, out, options)
    if outcome.counts.failed:
        click.get_current_context().exit(1)


def _suggest(paths: tuple[str, ...], out: Path | None, options: dict[str, Any]) -> None:
    if options["engine"] != "local" or len(paths) > hints.MAX_HINT_PATHS or "-" in paths:
        return  # the paths from stdin are gone
    if out is None:
        hints.suggest_again(out="results.csv", as_json=None)
    elif options["top_k"] == 1:
        hints.suggest_again(
            top_k=2, resume=None, out=out.with_stem(f"{out.stem}-top2")
        )  # every model has at least 2 labels


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False
