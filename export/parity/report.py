"""Reports: parity.md, which describes the certified models of a folder, and the numbers for a table of variants."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netkit.core import atomic_io
from netkit.core.errors import NetkitError
from netkit.core.runs import PARITY
from netkit.core.system import usable_cores
from netkit.export.parity.compare import FULL_BATCH
from netkit.infer.model import onnx_file, verify
from netkit.infer.model.certificate import Certificate
from netkit.infer.runtime import bench
from netkit.infer.runtime.session import open_session

MAX_LISTED_IMAGES = 20
TABLE_HEADER = """\
| provider | optimised | largest error | bound | PyTorch's error | labels changed | certain | accuracy | change, 95 % |
|---|---|---|---|---|---|---|---|---|"""


def write_page(folder: Path) -> None:
    """Write parity.md in `folder`, about each .onnx file there that has a certificate."""
    certificates: list[tuple[str, Certificate]] = []
    for path in sorted(folder.glob("*.onnx")):
        with suppress(NetkitError):  # a file of another tool, or of an earlier netkit
            certificates.append((path.name, verify.read_self_test(onnx_file.read(path)).certificate))
    atomic_io.write_atomic(folder / PARITY, page(certificates).encode())


def page(models: Iterable[tuple[str, Certificate]]) -> str:
    """The Markdown of parity.md, with a section for each file name and certificate."""
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
            f"The logits of this {certificate.precision} model, compared with PyTorch in float64 on {kinds} images, in "
            f"batches of {', '.join(map(str, certificate.batches))} and in shuffled order.\n",
            TABLE_HEADER,
            *rows,
            f"\nPyTorch's accuracy is {certificate.torch_accuracy:.2%}, and its error is that of float32. A label is "
            "certain if no error up to the largest can change it. Images whose label is not certain: "
            f"{_listed(certificate.at_risk)}.",
            f"\nGraph {certificate.graph_sha256}, from weights {certificate.weights_sha256}; "
            f"{', '.join(f'{package} {version}' for package, version in certificate.versions.items())}; "
            f"{certificate.platform}.",
        ]
    )


def _listed(indices: tuple[int, ...]) -> str:
    listed = ", ".join(f"image {index}" for index in indices[:MAX_LISTED_IMAGES]) or "none"
    hidden = len(indices) - MAX_LISTED_IMAGES
    return f"{listed} and {hidden:,} more" if hidden > 0 else listed


@dataclass(frozen=True)
class Figures:
    """A row of the table of variants: the size of the file in bytes, and the speed of the network on this CPU."""

    model: str
    precision: str
    accuracy: str
    labels_changed: int
    bytes: int
    images_per_s: int


def figures(path: Path) -> Figures:
    """Read the model's certificate and measure its speed on the CPU."""
    model = onnx_file.read(path)
    certificate = verify.read_self_test(model).certificate
    first = certificate.comparisons[0]
    session = open_session(model, device="cpu", threads=1)
    speed = bench.measure(session, batch_size=FULL_BATCH, threads=usable_cores()).images_per_s
    return Figures(str(path), certificate.precision, f"{first.accuracy:.2%}", first.changed, len(model.content), speed)
