"""For people: parity.md, with the certificates of a model and its variants, and the numbers for a table of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netkit.core.system import usable_cores
from netkit.export.parity.compare import WHOLE_BATCH
from netkit.infer.model import onnx_file, verify
from netkit.infer.model.certificate import Certificate
from netkit.infer.runtime import bench
from netkit.infer.runtime.session import open_session

HEAD = """\
| provider | optimised | largest error | bound | PyTorch's | labels changed | certain | accuracy | its change, 95 % |
|---|---|---|---|---|---|---|---|---|"""


def page(models: Iterable[tuple[str, Certificate]]) -> str:
    """Markdown, a section a model; names are those of their files."""
    sections = (_section(name, certificate) for name, certificate in models)
    return "\n".join(["# Parity with PyTorch", *sections, ""])


def _section(name: str, certificate: Certificate) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in certificate.inputs.items())
    rows = [
        f"| {each.provider} | {'yes' if each.optimised else 'no'} | {each.error:.2g} | {each.bound:.2g} "
        f"| {each.torch_error:.2g} | {each.changed:,} of {each.test_images:,} "
        f"| {each.test_images - len(each.at_risk):,} | {each.accuracy:.2%} "
        f"| {100 * each.interval[0]:+.2f} to {100 * each.interval[1]:+.2f} points |"
        for each in certificate.comparisons
    ]
    return "\n".join(
        [
            f"\n## {name}\n",
            f"Logits in {certificate.precision}, against PyTorch in float64, on {kinds} images, in batches of "
            f"{', '.join(map(str, certificate.batches))} and shuffled.\n",
            HEAD,
            *rows,
            f"\nPyTorch's accuracy is {certificate.torch_accuracy:.2%}; its error is that of float32. Certain are the "
            f"labels that no error as large as the largest can change; not certain: {_listed(certificate.at_risk)}.",
            f"\nGraph {certificate.graph_sha256}, from weights {certificate.weights_sha256}; "
            f"{', '.join(f'{package} {version}' for package, version in certificate.versions.items())}; "
            f"{certificate.platform}.",
        ]
    )


def _listed(indices: tuple[int, ...]) -> str:
    shown = ", ".join(f"image {index}" for index in indices[:20]) or "none"
    return shown if len(indices) <= 20 else f"{shown} and {len(indices) - 20:,} more"


@dataclass(frozen=True)
class Figures:
    """A model file in numbers: `bytes` of the file, `images_per_s` of the network alone on this machine's CPU."""

    model: str
    precision: str
    accuracy: str
    labels_changed: int
    bytes: int
    images_per_s: int


def figures(path: Path) -> Figures:
    """The numbers of the model in `path`, for a table of several."""
    written = onnx_file.read(path)
    certified = verify.read_self_test(written).certificate
    first = certified.comparisons[0]
    session = open_session(written, device="cpu", threads=1)
    speed = bench.measure(session, batch_size=WHOLE_BATCH, threads=usable_cores()).images_per_s
    return Figures(str(path), certified.precision, f"{first.accuracy:.2%}", first.changed, len(written.content), speed)
