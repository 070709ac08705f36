"""Compare: how far an open ONNX Runtime session is from the reference, run the way that users run it."""

import numpy as np
import torch
from numpy.typing import NDArray

from netkit.export.parity.reference import Floats, Reference, batches, error_bound, max_abs
from netkit.infer.model.certificate import Comparison
from netkit.infer.runtime.session import Session

BATCH_SIZES = (1, 2, 3, 7, 64)
FULL_BATCH = 64  # the batch size for all images


def compare(reference: Reference, session: Session, *, optimised: bool, torch_error: float) -> Comparison:
    """Compare the session's logits, probabilities and labels with the reference.

    All images run in batches of FULL_BATCH. Some test images run again in every batch size, and some in shuffled
    order. `torch_error` is `float32_error` on the session's device, and `optimised` is how the session was opened.
    """
    tests = len(reference.labels)
    logits, probabilities = _run(session, reference.images_u8, FULL_BATCH)
    errors = [max_abs(logits - reference.logits), *_batched_errors(reference, session)]
    error = float(np.max(errors))  # NaN if any of them is NaN
    labels, torch_labels = logits[:tests].argmax(axis=1), reference.test_logits.argmax(axis=1)
    finite = np.isfinite(logits[:tests]).all(axis=1)
    correct, torch_correct = labels == reference.labels, torch_labels == reference.labels
    exact_probabilities = torch.from_numpy(reference.logits).softmax(dim=1).numpy()
    return Comparison(
        provider=session.provider,
        optimised=optimised,
        test_images=tests,
        error=error,
        probability_error=max_abs(probabilities - exact_probabilities),
        torch_error=torch_error,
        bound=error_bound(torch_error, reference.logits),
        agreeing=int(((labels == torch_labels) & finite).sum()),
        accuracy=float(correct.mean()),
        interval=paired_interval(correct.astype(int) - torch_correct),
        at_risk=reference.at_risk(error),
    )


def worst_images(reference: Reference, session: Session, count: int) -> NDArray[np.uint8]:
    """The `count` images whose logits have the largest errors, NaN first."""
    errors = np.abs(session_logits(reference, session) - reference.logits).max(axis=1)
    order = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")
    return reference.images_u8[order[:count]]


def session_logits(reference: Reference, session: Session) -> Floats:
    """The session's logits (N, classes) for all images of the reference."""
    return _run(session, reference.images_u8, FULL_BATCH)[0]


def paired_interval(differences: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of paired differences, by the normal approximation.

    It is at least 3 / n wide on each side, by the rule of three: an event that did not occur in n cases may still have
    a probability of 3 / n.
    """
    mean, count = float(differences.mean()), len(differences)
    half_width = max(1.96 * float(differences.std()) / count**0.5, 3 / count)
    return mean - half_width, mean + half_width


def _batched_errors(reference: Reference, session: Session) -> list[float]:
    """The largest logit error of some test images, for each batch size and then in shuffled order."""
    tests, count = len(reference.labels), reference.batched_images
    in_order, shuffled = np.arange(min(tests, count)), np.random.default_rng(0).permutation(tests)[:count]
    errors = []
    for indices, size in [*((in_order, size) for size in BATCH_SIZES), (shuffled, FULL_BATCH)]:
        logits, _ = _run(session, reference.images_u8[indices], size)
        errors.append(max_abs(logits - reference.logits[indices]))
    return errors


def _run(session: Session, images_u8: NDArray[np.uint8], batch_size: int) -> tuple[Floats, Floats]:
    outputs = (session.run(batch, size=batch_size) for batch in batches(images_u8, batch_size))
    logits, probabilities = zip(*outputs, strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)
