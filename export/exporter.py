"""Exporter: converts a network, compares the ONNX model with PyTorch, and writes the file only if it passes."""

import logging
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import nn

from netkit.core import atomic_io
from netkit.core.errors import ParityError, UsageError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.core.version import VERSION
from netkit.data.dataset import DataSet
from netkit.data.temperature import MIN_IMAGES, fit_confidence
from netkit.export import quantize
from netkit.export.candidates import Candidate, fallbacks, fastest_first
from netkit.export.convert import OPSET
from netkit.export.parity import report
from netkit.export.parity.compare import (
    BATCH_SIZES,
    FULL_BATCH_SIZE,
    compare,
    run_batches,
    session_logits,
    with_other_torch_error,
    worst_images,
)
from netkit.export.parity.divergence import first_divergence
from netkit.export.parity.reference import Reference, compute_reference, evenly_spaced, float32_error
from netkit.export.parity.samples import choose_probes
from netkit.export.passes import FLOAT32
from netkit.infer.model import certificate, onnx_file, verify
from netkit.infer.model.certificate import Certificate, Comparison, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import KEY as PROBES_KEY
from netkit.infer.model.temperature import set_metadata, with_confidence
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import NAMES, device_of
from netkit.infer.runtime.session import open_session, open_sessions
from netkit.nets.training import checkpoint

logger = logging.getLogger(__name__)

NO_DIVERGENCE = (
    "one by one every module matches, so the cause may be that the network's output for an image depends on the other "
    "images of the batch"
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
    passes: Collection[str] = tuple(FLOAT32),
    multiple: int = 1,
    tune: bool = False,
    on_written: Callable[[str, Certificate], None] | None = None,
) -> dict[str, Certificate]:
    """Write `net` as an ONNX file for each precision in `paths`, and describe all models of the folder in parity.md.

    Before a file is written, its graph runs on each provider that works here, with ONNX Runtime's optimizations and
    without. The logits of an fp32 model must match PyTorch in float64 within a bound, on test images and synthetic
    images. The test accuracy of fp16 and int8 models may be at most `max_drop` (in [0, 1]) below PyTorch's. An int8
    model must be faster or smaller than the fp32 model, see `quantize.no_gain`.

    The graph of an fp32 model is rewritten by the graph passes in `passes`, and its channels are padded to a multiple
    of `multiple`, see `passes.pad_channels`. If it fails its check, it is checked again with fewer passes. With `tune`,
    the fastest model on this CPU is chosen from several with different passes. Returns the certificate of each file, by
    precision. Calls `on_written` with the precision and the certificate as soon as a file is written.

    Stops at the first precision that fails. Files of earlier precisions are already written. The file of this precision
    and those of later precisions do not change. parity.md describes all models in the folder.

    Raises ParityError if a model fails its check (an fp32 model: even without passes), or if an int8 model is neither
    faster nor smaller.
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
        try:
            if precision == "fp32":
                candidates = (
                    fastest_first(reference.net, card, opset=opset, file=str(path)) if tune
                    else fallbacks(reference.net, card, opset=opset, names=passes, multiple=multiple, file=str(path))
                )  # fmt: skip
                candidate, comparisons = _first_with_parity(candidates, reference, torch_errors, opset)
            else:
                models = _reduced_models(reference, data, precision, opset, str(path))
                models = (_calibrated(model, data, limit=reference.max_images) for model in models)
                candidate, comparisons = _first_accurate(models, reference, torch_errors, max_drop)
        except ParityError as exc:
            unchanged = "; the existing file is unchanged" if path.exists() else ""
            raise ParityError(f"{path}: not written: {exc}{unchanged}") from None
        certified = _certified(candidate, reference, comparisons, precision)
        verify.open_verified(certified, device="cpu")
        certificates[precision] = verify.read_self_test(certified).certificate
        with report.updated(path, certificates[precision]):
            atomic_io.write_atomic(path, certified.content)
        if on_written:
            on_written(precision, certificates[precision])
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


def _reduced_models(reference: Reference, data: DataSet, precision: str, opset: int, file: str) -> Iterator[Model]:
    """Yield the fp16 model, or the int8 models in the order in which to try them."""
    net, card = reference.net, reference.card
    if precision == "fp16":
        yield onnx_file.check(quantize.to_fp16(net, card, opset=opset), file)
    else:
        images_u8 = data.train_images[: reference.max_images]
        yield from quantize.int8_candidates(net, card, images_u8, opset=opset, file=file)


def _calibrated(model: Model, data: DataSet, *, limit: int) -> Model:
    """Fit a temperature to an fp16 or int8 model if `netkit train` fitted one to the network.

    Uses at most max(`limit`, MIN_IMAGES) validation images.
    """
    if not model.card.confidence.images or data.val_images is None or data.val_labels is None:
        return model
    indices = evenly_spaced(len(data.val_labels), max(limit, MIN_IMAGES))
    logits, _ = run_batches(open_session(model, device="cpu"), data.val_images[indices], FULL_BATCH_SIZE)
    return with_confidence(model, fit_confidence(logits, data.val_labels[indices]))


def _first_accurate(
    models: Iterable[Model], reference: Reference, torch_errors: dict[str, float], max_drop: float
) -> tuple[Candidate, tuple[Comparison, ...]]:
    """Return the first model that keeps the accuracy, and its comparisons. Log a warning if an earlier one does not.

    Raises ParityError if no model keeps the accuracy.
    """
    failures: list[ParityError] = []
    for model in models:
        comparisons = tuple(map(_bound_by_own_error, _comparisons(model, reference, torch_errors)))
        try:
            require_accuracy(comparisons, torch_accuracy=reference.accuracy, max_drop=max_drop)
        except ParityError as exc:
            failures.append(exc)
            continue
        if failures:
            logger.warning("with int8 linear layers, %s; exported with int8 convolutions only", failures[0])
        return Candidate(model), comparisons
    raise failures[-1]


def _comparisons(model: Model, reference: Reference, torch_errors: dict[str, float]) -> Iterator[Comparison]:
    """Compare the model on each provider that works here; fills `torch_errors` with each device's float32 error."""
    for optimised in (True, False):
        for session in open_sessions(model, device="auto", optimised=optimised):
            device = device_of(session.provider)
            if device not in torch_errors:
                torch_errors[device] = float32_error(reference, device)
            yield compare(reference, session, optimised=optimised, torch_error=torch_errors[device])


def _first_with_parity(
    candidates: Iterable[Candidate], reference: Reference, torch_errors: dict[str, float], opset: int
) -> tuple[Candidate, tuple[Comparison, ...]]:
    """Return the first candidate that passes all its comparisons, and these comparisons. Warn if another one failed.

    Raises ParityError if every candidate fails. The message names the module that differs.
    """
    failures: list[tuple[Candidate, Comparison]] = []
    for candidate in candidates:
        comparisons = tuple(_comparisons(candidate.model, reference, torch_errors))
        if not all(comparison.holds for comparison in comparisons):
            comparisons = tuple(with_other_torch_error(comparisons, reference))
        failed = next((comparison for comparison in comparisons if not comparison.holds), None)
        if failed is None:
            if failures:
                first, comparison = failures[0]
                dropped = ", ".join(name for name in first.passes if name not in candidate.passes)
                logger.warning(
                    "with the graph passes %s, the ONNX model differs from PyTorch: %s; exported %s",
                    first, comparison, f"without {dropped}" if dropped else f"with {candidate}",
                )  # fmt: skip
            return candidate, comparisons
        failures.append((candidate, failed))
    raise ParityError(f"the ONNX model differs from PyTorch: {_explained(*failures[-1], reference, opset)}")


def _explained(candidate: Candidate, failed: Comparison, reference: Reference, opset: int) -> str:
    """Describe a comparison that does not hold, and the module that differs."""
    session = open_session(candidate.model, device=device_of(failed.provider), optimised=failed.optimised)
    images_u8 = worst_images(reference, session, min(MAX_DIVERGENCE_IMAGES, reference.max_batched_images))
    divergence = first_divergence(
        reference.net,
        reference.card,
        images_u8,
        opset=opset,
        provider=failed.provider,
        optimised=failed.optimised,
    )
    return f"{failed}; {divergence or NO_DIVERGENCE}"


def _bound_by_own_error(comparison: Comparison) -> Comparison:
    """Set the bound of an fp16 or int8 model to its error on this machine; `verify` applies it on other machines."""
    largest = max(comparison.error, comparison.probability_error * min(1.0, comparison.temperature))
    return replace(comparison, bound=largest)


def _certified(
    candidate: Candidate, reference: Reference, comparisons: tuple[Comparison, ...], precision: str
) -> Model:
    """Return the candidate's model with its certificate and probes in the metadata."""
    model, is_fp32 = candidate.model, precision == "fp32"
    logits = reference.logits if is_fp32 else session_logits(reference, open_session(model, device="cpu"))
    probes = choose_probes(reference, logits).to_json()
    model_certificate = Certificate(
        precision=precision,
        weights_sha256=sha256(checkpoint.content(reference.net, reference.card)),
        graph_sha256=model.graph_sha256,
        card_sha256=sha256(model.metadata[METADATA_KEY]),
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
        passes=candidate.passes,
        speeds=candidate.speeds,
        without_casts=reference.without_casts,
    )
    proto = onnx.load_model_from_string(model.content)
    set_metadata(proto, certificate.KEY, model_certificate.to_json())
    set_metadata(proto, PROBES_KEY, probes)
    return onnx_file.check(proto.SerializeToString(deterministic=True), model.name)
