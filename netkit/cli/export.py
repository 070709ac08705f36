"""netkit export."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import netkit
from netkit.cli import hints
from netkit.cli.console import open_terminal, print_json, print_table
from netkit.cli.params import PATH, VARIANT, ChoiceList, arch_option, data_option, json_option, option
from netkit.core.errors import UsageError
from netkit.core.runs import WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

    from netkit.api.export import ExportedModel

MAX_DROP = click.FloatRange(0, 100)  # percentage points
MULTIPLE = click.IntRange(1, 64)


@click.command()
@arch_option(help="The run in runs/<arch>.")
@option("--run", type=PATH, help="The run in that folder.  [default: the newest in runs/]")
@option("--weights", type=PATH, help="A .safetensors file that 'train' wrote.")
@data_option(help="Where the run's data set is now.  [default: where it was]")
@option("--out", type=PATH, help="The .onnx file to write.  [default: model.onnx in the run]")
@option("--opset", type=int, metavar="N", default=20, help="ONNX operator set, 18 to 23.")
@option("--precision", type=VARIANT, default="fp32", help="What the model computes in; fp16 is for CUDA.")
@option("--variants", type=ChoiceList(VARIANT), help="Several precisions, as fp32,int8, and a table of them.")
@option("--max-drop", type=MAX_DROP, metavar="POINTS", default=0.1, help="Accuracy that fp16 and int8 may lose.")
@option("--pad-channels", type=MULTIPLE, metavar="N", default=1, help="Round channels up to a multiple of N.")
@json_option
def export(
    run: Path | None,
    weights: Path | None,
    precision: str,
    variants: tuple[str, ...] | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Export a trained network to one .onnx file.

    The model takes pixels. It carries its model card and a certificate that it computes what PyTorch computes, which
    'verify' checks on any machine. A model that fails this check is not written. parity.md beside it shows the
    certificate to people.

    If a network's channels are not a multiple of 16, as densenet's 24, --pad-channels 16 adds channels of zeros: the
    fp32 model computes the same, faster on processors with AVX-512 and slower on others.
    """
    if run is not None and weights is not None:
        raise UsageError("--run and --weights: choose one")
    with open_terminal().status("converting, and comparing with PyTorch in float64"):
        models = netkit.export_model(
            run / WEIGHTS if run else weights, variants=variants or (precision,), measure=bool(variants), **options
        )
    if as_json:
        for model in models:
            figures = asdict(model.figures) if model.figures else {}
            print_json({"model": str(model.path), **asdict(model.certificate), **figures})
    elif variants:
        print_table([asdict(model.figures) for model in models if model.figures])
    else:
        click.echo(f"{models[0].path}: {models[0].certificate}")
    _suggest(models[0])


def _suggest(model: ExportedModel) -> None:
    """Run the model on the image files that it was trained on, or on a sample of its data set."""
    from netkit.data import registry

    if not registry.has_image_files(model.data):
        if hints.has_images():
            hints.suggest_infer(model=model.path)
        else:
            hints.suggest("sample", hints.IMAGES, options=["--data", model.data])
    elif os.path.isdir(model.data):
        hints.suggest_infer(model.data, model=model.path)
    else:  # a table may list files anywhere
        hints.suggest("evaluate", str(model.path), options=["--data", model.data])
