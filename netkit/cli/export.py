"""The command `netkit export`."""

from __future__ import annotations

from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import netkit
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import (
    PATH,
    VARIANT,
    WHOLE_NUMBER,
    ChoiceList,
    Converter,
    Number,
    arch_option,
    data_option,
    json_option,
    option,
)
from netkit.core.errors import NetkitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from netkit.api.export import ExportedModel
    from netkit.export.parity.report import Figures

MAX_DROP = Number(float, 0, 100)  # percentage points
MULTIPLE = Number(int, 1, 64)
PASSES = Converter("NAME,...", lambda text: tuple(text.split(",")) if "," in text else text)
# of the table of models, in the order of the fields of Figures
COLUMNS = ("model", "precision", "accuracy", "labels changed", "bytes", "images/s on one core")


@click.command()
@arch_option(help="Export runs/ARCH. Always needed for MODULE:CLASS.")
@option("--run", type=PATH, help="Run folder.", show_default="newest in runs/")
@option("--weights", type=PATH, help="Weights from 'netkit train' (.safetensors).")
@data_option(help="Training data, if moved.", show_default="as in training")
@option("--out", type=PATH, help=".onnx file to write.", show_default="in the run folder")
@option("--opset", type=WHOLE_NUMBER, metavar="N", default=20, help="ONNX opset version, 18 to 23.")
@option("--precision", type=VARIANT, metavar="NAME", default="fp32", help="fp32, fp16 (for CUDA) or int8.")
@option("--variants", type=ChoiceList(VARIANT), help="Several precisions, e.g. fp32,int8.")
@option(
    "--max-drop",
    type=MAX_DROP,
    metavar="POINTS",
    default=0.1,
    help="Allowed accuracy loss in % points.",
)
@option("--pad-channels", type=MULTIPLE, metavar="N", default=1, help="Pad channels to a multiple of N (1 to 64).")
@option(
    "--passes", type=PASSES, default="default", show_default=False, help="Graph passes: default, none, all or names."
)
@option("--tune", is_flag=True, help="Measure sets of passes, write the fastest.")
@json_option
def export(
    run: Path | None,
    weights: Path | None,
    precision: str,
    variants: tuple[str, ...] | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Export a trained network to ONNX and check it against PyTorch.

    Compares the outputs of the ONNX model and of PyTorch for test images and synthetic images. A model that fails the
    check is not written. The .onnx file contains the network, its preprocessing and labels, and up to 16 test images
    with their logits; 'netkit verify' compares these logits on any machine. parity.md in the same folder lists the
    results of the check.

    --arch selects the folder runs/ARCH, with - for each /, : and . of ARCH. Without --arch MODULE:CLASS, netkit does
    not import your own network, even if you pass --run or --weights.

    fp16 and int8 models are written only if they lose at most --max-drop percentage points of accuracy, and int8 models
    only if they are faster or smaller than float32 on this CPU. The export stops at the first of the --variants that
    fails. Variants before it are written. netkit prints the size, the accuracy and the speed on one core of each
    written model.

    Graph passes rewrite an fp32 graph for speed. If the model fails the check, the export tries fewer passes, down to
    none. --passes all also applies depthwise_padding, which speeds up some networks on CPUs with AVX-512 and slows them
    down on others. --tune tries it, and also padded channels. docs/speed.md lists the passes.

    \b
    Example: netkit export --arch inception --variants fp32,int8
    """
    if run is not None and weights is not None:
        raise UsageError("--run and --weights exclude each other: pass only one of them")
    if run is not None and not run.is_dir():
        raise UsageError(f"--run {run}: no such folder; pass a run folder, or a .safetensors file with --weights")
    if variants and _is_passed("precision"):
        raise UsageError("--precision and --variants exclude each other: pass only one of them")
    if {*(variants or [precision])} == {"fp32"} and _is_passed("max_drop"):
        raise UsageError("--max-drop is for fp16 and int8; omit it, or pass --precision or --variants")
    from netkit.export.parity import report  # loads torch, so not before the checks above

    models: list[ExportedModel] = []
    failure: NetkitError | OSError | None = None
    with open_terminal().status("exporting and comparing with PyTorch in float64"):
        try:
            netkit.export_model(run or weights, variants=variants or (precision,), on_written=models.append, **options)
        except (NetkitError, OSError) as exc:
            if not models:
                raise
            failure = exc
        figures = report.figures(model.path for model in models)
    _print(models, figures, as_json=as_json)
    if failure:
        raise failure
    _suggest(models[0])


def _print(models: Sequence[ExportedModel], figures: Sequence[Figures], *, as_json: bool) -> None:
    if as_json:
        for model, row in zip(models, figures, strict=True):
            print_json({"model": str(model.path), **asdict(model.certificate), **asdict(row)})
        return
    for model in models:
        click.echo(f"{model.path}: {model.certificate}")
    print_table([dict(zip(COLUMNS, astuple(row), strict=True)) for row in figures])


def _is_passed(name: str) -> bool:
    """Whether the user passed the option, so that its value is not the default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _suggest(model: ExportedModel) -> None:
    """Suggest evaluating the model on the test images of its data set, or running it on images from elsewhere."""
    from netkit.data import registry

    has_files = registry.has_image_files(model.data)
    if not has_files and hints.has_images():
        hints.suggest_infer(model=model.path)
    elif not has_files and hints.is_default(model.path):  # after `sample`, the hint is to run the default model
        hints.suggest("sample", hints.IMAGES, options=["--data", model.data])
    else:
        hints.suggest("evaluate", str(model.path), options=["--data", model.data])
