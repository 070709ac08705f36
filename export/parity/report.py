"""The parity report parity.md, which describes the certified models of a folder, and the table of models."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from netkit.core import atomic_io
from netkit.core.errors import NetkitError
from netkit.core.runs import PARITY
from netkit.infer.model import onnx_file, verify
from netkit.infer.model.certificate import Certificate, Comparison
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime import bench
from netkit.infer.runtime.session import open_session

MAX_LISTED_IMAGES = 20
COLUMNS = (
    "execution provider",
    "ONNX Runtime's graph optimizations",
    "largest logit error",
    "bound",
    "float32 PyTorch error",
    "same label as PyTorch",
    "labels that the error could change",
    "accuracy",
    "accuracy change (95 % confidence interval)",
)
FP32_BOUND = "`2 * float32 PyTorch error + 1e-6 * max(1, largest absolute logit)`"
VARIANT_BOUND = "the largest error of logits and probabilities at export"  # of fp16 and int8 models


@contextmanager
def updated(path: Path, certificate: Certificate) -> Iterator[None]:
    """Replace parity.md in the folder of `path` after the block has written a model with `certificate` to `path`.

    The page has a section for each .onnx file of the folder that has a certificate. It is written to a temporary file
    before the block, so a full disk cannot cause a new model next to an old page.
    """
    certificates = {path.name: certificate}
    for other in path.parent.glob("*.onnx"):
        if other.name != path.name:
            with suppress(NetkitError):  # a file of another tool, or of another netkit version
                certificates[other.name] = verify.read_self_test(onnx_file.read(other)).certificate
    with atomic_io.open_atomic(path.parent / PARITY) as file:
        file.write(page(sorted(certificates.items())).encode())
        file.flush()
        os.fsync(file.fileno())
        yield


def page(models: Iterable[tuple[str, Certificate]]) -> str:
    """Return the Markdown of parity.md, with a section for each file name and certificate."""
    sections = (_section(name, certificate) for name, certificate in models)
    return "\n".join(["# Parity with PyTorch", *sections, ""])


def _section(name: str, certificate: Certificate) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in certificate.inputs.items())
    batch_sizes = ", ".join(map(str, certificate.batches))
    versions = ", ".join(f"{package} {version}" for package, version in certificate.versions.items())
    casts = " (without the network's casts to other floating-point types)" if certificate.without_casts else ""
    return "\n".join(
        [
            f"\n## {name}\n",
            f"This {certificate.precision} model was compared with PyTorch in float64{casts} on {kinds} images, "
            f"in batches of {batch_sizes}, in order and shuffled. Labels and accuracy are those of the test images; "
            f"PyTorch's accuracy is {certificate.torch_accuracy:.2%}.\n",
            f"| {' | '.join(COLUMNS)} |",
            f"|{'---|' * len(COLUMNS)}",
            *map(_row, certificate.comparisons),
            f"\nBound: {FP32_BOUND if certificate.precision == 'fp32' else VARIANT_BOUND}.",
            "\nAn error can change a label only if the two largest logits differ by at most twice the error. Test "
            f"images within that margin: {_listed(certificate.at_risk)}.",
            f"\nGraph SHA-256: {certificate.graph_sha256}; weights SHA-256: {certificate.weights_sha256}; {versions}; "
            f"{certificate.platform}.",
        ]
    )


def _row(comparison: Comparison) -> str:
    low, high = (100 * end for end in comparison.interval)
    values = (
        comparison.provider,
        "yes" if comparison.optimised else "no",
        f"{comparison.error:.2g}",
        f"{comparison.bound:.2g}",
        f"{comparison.torch_error:.2g}",
        f"{comparison.agreeing:,} of {comparison.test_images:,}",
        f"{len(comparison.at_risk):,} of {comparison.test_images:,}",
        f"{comparison.accuracy:.2%}",
        f"{low:+.2f} to {high:+.2f} points",
    )
    return f"| {' | '.join(values)} |"


def _listed(indices: tuple[int, ...]) -> str:
    images = ", ".join(f"image {index}" for index in indices[:MAX_LISTED_IMAGES]) or "none"
    hidden = len(indices) - MAX_LISTED_IMAGES
    return f"{images} and {hidden:,} more" if hidden > 0 else images


@dataclass(frozen=True)
class Figures:
    """A row of the table of models: accuracy, size of the file in bytes, and speed on one core of this CPU."""

    model: str
    precision: str
    accuracy: str
    labels_changed: int
    bytes: int
    images_per_s: int


def figures(paths: Iterable[Path]) -> list[Figures]:
    """Read the certificates of models of one network, and measure their speeds in turns."""
    models = [onnx_file.read(path) for path in paths]
    speeds = bench.interleaved_speeds([open_session(model, device="cpu", threads=1) for model in models])
    return [_figures(model, round(speed)) for model, speed in zip(models, speeds, strict=True)]


def _figures(model: Model, images_per_s: int) -> Figures:
    certificate = verify.read_self_test(model).certificate
    first = certificate.comparisons[0]
    accuracy, size = f"{first.accuracy:.2%}", len(model.content)
    return Figures(model.name, certificate.precision, accuracy, first.changed, size, images_per_s)
