"""Comparison of an open ONNX Runtime session with the reference."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from netkit.data.temperature import softmax
from netkit.export.parity.float64 import batches
from netkit.export.parity.reference import Floats, Reference, error_bound, float32_error, max_abs
from netkit.infer.model.certificate import Comparison
from netkit.infer.runtime.providers import CPU
from netkit.infer.runtime.session import Session

BATCH_SIZES = (1, 2, 3, 7, 64)
FULL_BATCH_SIZE = 64  # for the run over all images


def compare(reference: Reference, session: Session, *, optimised: bool, torch_error: float) -> Comparison:
    """Compare the session's logits, probabilities and labels with the reference.

    All images run in batches of FULL_BATCH_SIZE. Some test images run again in each of BATCH_SIZES, and some in
    shuffled order. `torch_error` is `float32_error` on the session's device; `optimised` is how the session was opened.
    """
    test_count = len(reference.labels)
    logits, probabilities = run_batches(session, reference.images_u8, FULL_BATCH_SIZE)
    errors = [max_abs(logits - reference.logits), *_batched_errors(reference, session)]
    error = float(np.max(errors))  # NaN if any error is NaN
    labels, torch_labels = logits[:test_count].argmax(axis=1), reference.test_logits.argmax(axis=1)
    finite = np.isfinite(logits[:test_count]).all(axis=1)
    correct, torch_correct = labels == reference.labels, torch_labels == reference.labels
    temperature = session.card.confidence.temperature
    return Comparison(
        provider=session.provider,
        optimised=optimised,
        test_images=test_count,
        error=error,
        probability_error=max_abs(probabilities - softmax(reference.logits, temperature)),
        torch_error=torch_error,
        bound=error_bound(torch_error, reference.logits),
        agreeing=int(((labels == torch_labels) & finite).sum()),
        accuracy=float(correct.mean()),
        interval=paired_interval(correct.astype(int) - torch_correct),
        at_risk=reference.at_risk(error),
        temperature=temperature,
    )


def with_other_torch_error(comparisons: Iterable[Comparison], reference: Reference) -> Iterator[Comparison]:
    """Measure PyTorch's float32 error on the CPU again, without oneDNN; compute the CPU's bounds from the larger error.

    The largest of many rounding errors varies by chance, for example between 0.6e-6 and 2.4e-6 in a small network that
    ends in a softmax.
    """
    other = float32_error(reference, "cpu", onednn=False)
    for comparison in comparisons:
        torch_error = max(comparison.torch_error, other) if comparison.provider == CPU else comparison.torch_error
        yield replace(comparison, torch_error=torch_error, bound=error_bound(torch_error, reference.logits))


def worst_images(reference: Reference, session: Session, count: int) -> NDArray[np.uint8]:
    """The `count` images whose logits have the largest errors, NaN first."""
    errors = np.abs(session_logits(reference, session) - reference.logits).max(axis=1)
    order = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")
    return reference.images_u8[order[:count]]


def session_logits(reference: Reference, session: Session) -> Floats:
    """The session's logits (N, classes) for all images of the reference."""
    return run_batches(session, reference.images_u8, FULL_BATCH_SIZE)[0]


def paired_interval(differences: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of paired differences, by the normal approximation.

    Its half-width is at least 3 / n, by the rule of three: an event that did not occur in n cases may still have a
    probability of 3 / n.
    """
    mean, count = float(differences.mean()), len(differences)
    half_width = max(1.96 * float(differences.std()) / count**0.5, 3 / count)
    return mean - half_width, mean + half_width


def _batched_errors(reference: Reference, session: Session) -> list[float]:
    """The largest logit error of some test images, for each batch size and then in shuffled order."""
    test_count, limit = len(reference.labels), reference.max_batched_images
    in_order, shuffled = np.arange(min(test_count, limit)), np.random.default_rng(0).permutation(test_count)[:limit]
    errors = []
    for indices, size in [*((in_order, size) for size in BATCH_SIZES), (shuffled, FULL_BATCH_SIZE)]:
        logits, _ = run_batches(session, reference.images_u8[indices], size)
        errors.append(max_abs(logits - reference.logits[indices]))
    return errors


def run_batches(session: Session, images_u8: NDArray[np.uint8], batch_size: int) -> tuple[Floats, Floats]:
    """The session's logits and probabilities (N, classes) for images (N, C, H, W), run in batches of `batch_size`."""
    outputs = (session.run(batch, size=batch_size) for batch in batches(images_u8, batch_size))
    logits, probabilities = zip(*outputs, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)
