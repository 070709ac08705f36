"""netkit.export_model: export a trained network to .onnx files and check their outputs against PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netkit.core.errors import UsageError, unknown_name
from netkit.core.runs import MODELS, STATE, WEIGHTS, choose
from netkit.data import registry
from netkit.export import existing, exporter
from netkit.export.convert import OPSET
from netkit.export.parity import report
from netkit.export.parity.report import Figures
from netkit.export.passes import FLOAT32, OPTIONAL
from netkit.infer.model.certificate import Certificate
from netkit.nets.training import checkpoint
from netkit.nets.training.record import data_of

DEFAULT = "default"
PASSES: Mapping[str, Sequence[str]] = {DEFAULT: tuple(FLOAT32), "none": (), "all": (*FLOAT32, *OPTIONAL)}  # by name


@dataclass(frozen=True)
class ExportedModel:
    """An exported .onnx file and its certificate.

    `data` names the data set of the check, in the form that `netkit.train` takes. `figures` holds the file size and the
    speed if `export_model` measured them.
    """

    path: Path
    data: str
    certificate: Certificate
    figures: Figures | None = None


def export_model(
    source: str | Path | None = None,
    *,
    arch: str | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    variants: Sequence[str] = ("fp32",),
    opset: int = OPSET,
    max_drop: float = 0.1,
    passes: str | Sequence[str] = DEFAULT,
    pad_channels: int = 1,
    tune: bool = False,
    measure: bool = False,
    on_written: Callable[[ExportedModel], None] | None = None,
) -> tuple[ExportedModel, ...]:
    """Export a trained network to ONNX, one file per variant, and check each file against PyTorch.

    The export stops at the first variant that fails. The variants before it are written; all other files do not change.
    If a file at an output path is an export of another network, a note of the exception (`__notes__`) says so.
    parity.md in the same folder lists the results of the checks of all models in the folder.

    Args:
        source: Run folder, or a .safetensors file that `netkit.train` wrote. By default the run in `runs/<arch>`, or
            the newest run in `runs/` if `arch` is not given.
        arch: Name of the architecture. Required for your own nn.Module, `MODULE:CLASS`: a weights file must not
            choose which code runs.
        data: Current location of the data set. By default the location during training.
        out: Path of the .onnx file to write. By default model.onnx, model.fp16.onnx or model.int8.onnx in the folder
            of the weights.
        variants: Precisions: `fp32`, `fp16` (for CUDA) or `int8`.
        opset: ONNX opset version, 18 to 23.
        max_drop: Largest loss of test accuracy of fp16 and int8, in percentage points. If an int8 model loses more, the
            export tries int8 for convolutions only.
        passes: Names of the graph passes that rewrite an fp32 model, see docs/speed.md. `default` applies those that
            slow down models neither with AVX-512 nor with AVX2, `all` also the optional ones, and `none` no pass.
        pad_channels: Pad the channels of convolutions with zeros to a multiple of this number. For fp32 only.
        tune: Measure an fp32 model with several choices of passes on the CPU of this machine and write the fastest.
        measure: Also measure the file sizes, and the speeds on one core of this machine, in turns.
        on_written: Function that is called with each model, without `figures`, as soon as its file is written.

    Returns:
        One ExportedModel per variant, in the order of `variants`.

    Raises:
        UsageError: A name, path or value is invalid.
        ModelError: The weights are damaged.
        DataError: The data set is missing, or is not the one that the network was trained on.
        ParityError: The outputs of a model differ from those of PyTorch even without graph passes, or it loses too
            much accuracy, or an int8 model is neither faster nor smaller than fp32.

    Example:
        >>> (model,) = netkit.export_model("runs/residual")
        >>> model.path.as_posix()
        'runs/residual/model.onnx'
        >>> model.certificate.precision
        'fp32'
    """
    if out is not None and len(variants) > 1:
        raise UsageError("--out names one file, but --variants writes several: pass only one of them")
    for variant in variants:
        if variant not in MODELS:
            raise unknown_name("precision", variant, MODELS)
    pass_names = _pass_names(passes)
    _check_float32_options(variants, passes != DEFAULT, pad_channels > 1, tune)
    weights = _weights(source, arch)
    net, card = checkpoint.load(weights, trusted=arch)
    if arch and card.arch != arch:
        raise UsageError(
            f"{weights}: contains the network {card.arch}, not {arch}; pass this file with --weights, without --arch"
        )
    paths = {variant: Path(out) if out is not None else weights.parent / MODELS[variant] for variant in variants}
    models: list[ExportedModel] = []

    def add(variant: str, certificate: Certificate) -> None:
        models.append(ExportedModel(paths[variant], registry.data_argument(data_set), certificate))
        if on_written:
            on_written(models[-1])

    with existing.noted(paths.values(), net, card):
        data_set = data_of(weights.parent, card, source=None if data is None else str(data))
        exporter.export(
            net,
            paths,
            card=card,
            data=data_set,
            opset=opset,
            max_drop=max_drop / 100,
            passes=pass_names,
            multiple=pad_channels,
            tune=tune,
            on_written=add,
        )
    if measure:
        figures = report.figures(model.path for model in models)
        return tuple(replace(model, figures=row) for model, row in zip(models, figures, strict=True))
    return tuple(models)


def _pass_names(passes: str | Sequence[str]) -> Sequence[str]:
    names = PASSES.get(passes, (passes,)) if isinstance(passes, str) else passes
    for name in names:
        if name not in PASSES["all"]:
            raise unknown_name("pass", name, [*PASSES["all"], *PASSES])
    return names


def _check_float32_options(variants: Sequence[str], passes: bool, pad_channels: bool, tune: bool) -> None:
    float32_options = {"--passes": passes, "--pad-channels": pad_channels, "--tune": tune}
    used = [option for option, is_used in float32_options.items() if is_used]
    if used and "fp32" not in variants:
        raise UsageError(f"{used[0]} requires fp32, not {' and '.join(variants)}")
    if tune and len(used) > 1:
        raise UsageError(f"--tune chooses the passes itself: pass it without {used[0]}")


def _weights(source: str | Path | None, arch: str | None) -> Path:
    if source is None:
        return choose(WEIGHTS, file=None, arch=arch)
    path = Path(source)
    if (path / STATE).is_file() and not (path / WEIGHTS).exists():
        raise UsageError(f"{path}: its training has not ended; continue it with 'netkit train' and --resume")
    if path.is_dir() and not (path / WEIGHTS).exists():
        raise UsageError(f"{path}: contains no {WEIGHTS}; pass a folder that 'netkit train' wrote")
    return choose(WEIGHTS, file=path / WEIGHTS if path.is_dir() else path, arch=None)
