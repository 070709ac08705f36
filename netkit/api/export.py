"""netkit.export_model: from a run to .onnx files whose outputs were checked against PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netkit.core.errors import UsageError, unknown_name
from netkit.core.runs import MODELS, WEIGHTS, choose
from netkit.data import registry
from netkit.export import exporter
from netkit.export.convert import OPSET
from netkit.export.parity import report
from netkit.export.parity.report import Figures
from netkit.infer.model.certificate import Certificate
from netkit.nets.training import checkpoint
from netkit.nets.training.record import data_of


@dataclass(frozen=True)
class ExportedModel:
    """An .onnx file and the certificate that it carries.

    `data` is the data set that it was checked on, as `netkit.train` takes it; `figures` are its numbers, if measured.
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
    pad_channels: int = 1,
    measure: bool = False,
) -> tuple[ExportedModel, ...]:
    """Export a trained network to ONNX, one file for each variant, and check each file against PyTorch.

    A variant that fails its check is not written. parity.md beside the models shows the certificates to people.

    Args:
        source: Folder of a run, or a .safetensors file that training wrote; by default the run in `runs/<arch>`, and
            without `arch` the newest in `runs/`.
        arch: Architecture of the network. Needed for a class of your own, `MODULE:CLASS`, because a file must not
            choose what code is run.
        data: Where the run's data set is now; by default where it was.
        out: The .onnx file to write; by default model.onnx, model.fp16.onnx or model.int8.onnx beside the weights.
        variants: Precisions: `fp32`, `fp16` (for CUDA), `int8`.
        opset: ONNX operator set, 18 to 23.
        max_drop: Percentage points of test accuracy that fp16 and int8 may lose.
        pad_channels: Fill the channels of convolutions up to a multiple of this number, fp32 only.
        measure: Measure the file's size and its speed on this machine's CPU, too.

    Returns:
        One ExportedModel for each variant, in the order of `variants`.

    Raises:
        UsageError: A name, path or value is wrong.
        ModelError: The weights are damaged.
        DataError: The data set is missing, or not the one that the network was trained on.
        ParityError: A model does not compute what PyTorch computes, or loses too much accuracy.

    Example:
        >>> (model,) = netkit.export_model("runs/residual")
        >>> model.path.as_posix()
        'runs/residual/model.onnx'
        >>> model.certificate.precision
        'fp32'
    """
    if out is not None and len(variants) > 1:
        raise UsageError("--out names one file, and --variants makes several: choose one")
    for variant in variants:
        if variant not in MODELS:
            raise unknown_name("precision", variant, MODELS)
    if pad_channels > 1 and "fp32" not in variants:
        raise UsageError(f"--pad-channels is for fp32, not for {' and '.join(variants)}")
    weights = _weights(source, arch)
    net, card = checkpoint.load(weights, trusted=arch)
    if arch and card.arch != arch:
        raise UsageError(f"{weights}: holds the net {card.arch}, not {arch}")
    data_set = data_of(weights.parent, card, source=None if data is None else str(data))
    paths = {variant: Path(out) if out is not None else weights.parent / MODELS[variant] for variant in variants}
    certificates = exporter.export(
        net, paths, card=card, data=data_set, opset=opset, max_drop=max_drop / 100, multiple=pad_channels
    )
    return tuple(
        ExportedModel(
            paths[variant],
            registry.spell(data_set),
            certificate,
            report.figures(paths[variant]) if measure else None,
        )
        for variant, certificate in certificates.items()
    )


def _weights(source: str | Path | None, arch: str | None) -> Path:
    if source is None:
        return choose(WEIGHTS, file=None, arch=arch)
    path = Path(source)
    return choose(WEIGHTS, file=path / WEIGHTS if path.is_dir() else path, arch=None)
