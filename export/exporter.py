"""Exporter: converts a network, compares the ONNX model with PyTorch, and writes the file only if it passes."""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import nn

from netkit.core import atomic_io
from netkit.core.errors import ParityError, UsageError
from netkit.core.model_card import ModelCard
from netkit.core.version import VERSION
from netkit.data.dataset import DataSet
from netkit.export import quantize
from netkit.export.convert import OPSET, convert
from netkit.export.parity import report
from netkit.export.parity.compare import BATCH_SIZES, compare, session_logits, worst_images
from netkit.export.parity.divergence import first_divergence
from netkit.export.parity.reference import Reference, compute_reference, float32_error
from netkit.export.parity.samples import choose_probes
from netkit.export.passes import float32_passes
from netkit.infer.model import certificate, onnx_file, verify
from netkit.infer.model.certificate import Certificate, Comparison, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import KEY as PROBES_KEY
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import NAMES, device_of
from netkit.infer.runtime.session import open_session, open_sessions
from netkit.nets.training import checkpoint

NO_DIVERGENCE = (
    "without netkit's graph passes every module matches, so the cause is a pass, or that the network's output for an "
    "image depends on the other images of the batch"
)
MAX_DIVERGENCE_IMAGES = 128  # images with the largest errors, used to find the first module whose output differs


def export(
    net: nn.Module,
    paths: Mapping[str, Path],
    *,
    card: ModelCard,
    data: DataSet,
    opset: int = OPSET,
    max_drop: float,
    multiple: int = 1,
) -> dict[str, Certificate]:
    """Write `net` as an ONNX file for each precision in `paths`, and describe all models of the folder in parity.md.

    Before a file is written, its graph runs on each provider that works here, with ONNX Runtime's optimizations and
    without. The logits of an fp32 model must match PyTorch in float64 within a bound, on test images and synthetic
    images. The test accuracy of fp16 and int8 models may be at most `max_drop` (in [0, 1]) below PyTorch's.

    The channels of an fp32 model are padded to a multiple of `multiple`, see `passes.pad_channels`. Returns the
    certificate of each file.

    Raises ParityError if a model fails its check; its file and the files of later precisions are not changed.
    Raises UsageError if a path cannot be written or does not end in .onnx.
    """
    for path in paths.values():
        atomic_io.require_writable(path)
        if path.suffix != ".onnx":
            raise UsageError(f"{path}: the name of an ONNX file must end in .onnx")
    reference = compute_reference(net, card, data.test_images, data.test_labels)
    torch_errors: dict[str, float] = {}  # float32 errors by device
    certificates: dict[str, Certificate] = {}
    for precision, path in paths.items():
        model = onnx_file.check(_model_bytes(reference, data, precision, opset, multiple), str(path))
        comparisons = tuple(_comparisons(model, reference, torch_errors))
        try:
            if precision == "fp32":
                _require_parity(model, comparisons, reference, opset)
            else:
                comparisons = tuple(_bound_by_own_error(comparison) for comparison in comparisons)
                require_accuracy(comparisons, torch_accuracy=reference.accuracy, max_drop=max_drop)
        except ParityError as exc:
            unchanged = "; the existing file is unchanged" if path.exists() else ""
            raise ParityError(f"{path}: not written: {exc}{unchanged}") from None
        certified = _certified(model, reference, comparisons, precision)
        verify.open_verified(certified, device="cpu")
        atomic_io.write_atomic(path, certified.content)
        certificates[precision] = verify.read_self_test(certified).certificate
        report.write_page(path.parent)
    return certificates


def require_accuracy(comparisons: tuple[Comparison, ...], *, torch_accuracy: float, max_drop: float) -> None:
    """Raise ParityError if a comparison's accuracy is more than `max_drop` below PyTorch's; all are in [0, 1]."""
    for comparison in comparisons:
        lost = round((torch_accuracy - comparison.accuracy) * comparison.test_images)  # a whole number of images
        if not lost <= max_drop * comparison.test_images + 1e-6 or not comparison.holds:
            raise ParityError(
                f"accuracy on {comparison.test_images:,} test images is {comparison.accuracy:.2%} on "
                f"{NAMES[comparison.provider]} and {torch_accuracy:.2%} in PyTorch; the drop exceeds --max-drop of "
                f"{100 * max_drop:g} points"
            )


def _model_bytes(reference: Reference, data: DataSet, precision: str, opset: int, multiple: int) -> bytes:
    net, card = reference.net, reference.card
    if precision == "fp16":
        return quantize.to_fp16(net, card, opset=opset)
    if precision == "int8":
        return quantize.to_int8(net, card, data.train_images[: reference.max_images], opset=opset)
    return convert(net, card, opset=opset, passes=float32_passes(multiple=multiple))


def _comparisons(model: Model, reference: Reference, torch_errors: dict[str, float]) -> Iterator[Comparison]:
    """Compare the model on each provider that works here; fills `torch_errors` with each device's float32 error."""
    for optimised in (True, False):
        for session in open_sessions(model, device="auto", optimised=optimised):
            device = device_of(session.provider)
            if device not in torch_errors:
                torch_errors[device] = float32_error(reference, device)
            yield compare(reference, session, optimised=optimised, torch_error=torch_errors[device])


def _require_parity(model: Model, comparisons: tuple[Comparison, ...], reference: Reference, opset: int) -> None:
    """Raise ParityError for the first comparison that exceeds its bound; the message names the module that differs."""
    failed = next((comparison for comparison in comparisons if not comparison.holds), None)
    if failed is None:
        return
    session = open_session(model, device=device_of(failed.provider), optimised=failed.optimised)
    images_u8 = worst_images(reference, session, min(MAX_DIVERGENCE_IMAGES, reference.max_batched_images))
    divergence = first_divergence(
        reference.net,
        reference.card,
        images_u8,
        opset=opset,
        provider=failed.provider,
        optimised=failed.optimised,
    )
    raise ParityError(f"the ONNX model differs from PyTorch: {failed}; {divergence or NO_DIVERGENCE}")


def _bound_by_own_error(comparison: Comparison) -> Comparison:
    """Set the bound of an fp16 or int8 model to its error on this machine; `verify` applies it on other machines."""
    return replace(comparison, bound=max(comparison.error, comparison.probability_error))


def _certified(model: Model, reference: Reference, comparisons: tuple[Comparison, ...], precision: str) -> Model:
    """Return the model with its certificate and probes in the metadata."""
    is_fp32 = precision == "fp32"
    logits = reference.logits if is_fp32 else session_logits(reference, open_session(model, device="cpu"))
    probes = choose_probes(reference, logits).to_json()
    model_certificate = Certificate(
        precision=precision,
        weights_sha256=sha256(checkpoint.content(reference.net, reference.card)),
        graph_sha256=model.graph_sha256,
        card_sha256=sha256(reference.card.to_json()),
        probes_sha256=sha256(probes),
        versions={
            "netkit": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
        },
        platform=platform.platform(),
        inputs=reference.counts,
        batches=BATCH_SIZES,
        torch_accuracy=reference.accuracy,
        comparisons=comparisons,
        without_casts=reference.without_casts,
    )
    proto = onnx.load_model_from_string(model.content)
    proto.metadata_props.add(key=certificate.KEY, value=model_certificate.to_json())
    proto.metadata_props.add(key=PROBES_KEY, value=probes)
    return onnx_file.check(proto.SerializeToString(deterministic=True), model.name)
