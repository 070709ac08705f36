"""Verification of a model against its certificate, on the machine that runs it. Needs no PyTorch."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from netkit.core.errors import ModelError
from netkit.core.model_card import METADATA_KEY
from netkit.data.temperature import softmax
from netkit.infer.check import Check
from netkit.infer.model import certificate, probes
from netkit.infer.model.certificate import Certificate, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import Probes
from netkit.infer.runtime.providers import NAMES
from netkit.infer.runtime.session import Session, open_session, open_sessions

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 7, 16)
SOFTMAX_TOLERANCE = 1e-5  # absolute, for float32 probabilities, if |logits / temperature| <= TOLERANCE_LOGIT
TOLERANCE_LOGIT = 40  # above it, the tolerance grows in proportion to the logits, as their float32 rounding errors do
EXPORT_AGAIN = "export the model again with 'netkit export'"


@dataclass(frozen=True)
class SelfTest:
    """The certificate and the probes of a model."""

    certificate: Certificate
    probes: Probes


def read_self_test(model: Model) -> SelfTest:
    """Read the self-test from the model's metadata. Raises ModelError if a part is missing or malformed."""
    for key in (certificate.KEY, probes.KEY):
        if key not in model.metadata:
            raise ModelError(f"{model.name}: has no {key} in its metadata; {EXPORT_AGAIN}")
    try:
        return SelfTest(
            Certificate.from_json(model.metadata[certificate.KEY]),
            Probes.from_json(model.metadata[probes.KEY], model.card),
        )
    except ModelError as exc:
        raise ModelError(f"{model.name}: {exc}; {EXPORT_AGAIN}") from None


def verify(model: Model, *, device: str) -> Iterator[Check]:
    """Check the model's hashes, and its outputs on `device`; "auto" means every device that works here.

    Does not run a model whose graph was changed. Raises ModelError if the model carries no certificate or probes,
    DeviceError if the device cannot be used.
    """
    self_test = read_self_test(model)
    graph, *others = _check_hashes(model, self_test)
    if not graph.ok:
        graph = replace(graph, detail=f"{graph.detail}; the network was not run")
    yield from (graph, *others)
    if graph.ok:
        for session in open_sessions(model, device=device):
            yield _check_outputs(session, self_test, BATCH_SIZES)


def open_verified(
    model: Model, *, device: str, threads: int | None = None, fix: str = f"{EXPORT_AGAIN}, or pass --no-verify"
) -> Session:
    """Check the model's hashes and its outputs for the probes, and open it as `open_session` does.

    Raises ModelError if the model has no certificate or probes, or if a check fails; the message of a failed check ends
    with `fix`. Raises DeviceError if the device cannot be used.
    """
    self_test = read_self_test(model)
    _require(model, _check_hashes(model, self_test), fix)
    session = open_session(model, device=device, threads=threads)
    _require(model, [_check_outputs(session, self_test, BATCH_SIZES[-1:])], fix)
    return session


def warn_if_failed(model: Model, consequence: str, *, session: Session | None = None) -> None:
    """Log a warning, with the consequence, for the first failed check of the hashes and, on `session`, the outputs."""
    try:
        self_test = read_self_test(model)
        failed = _first_failed(_check_hashes(model, self_test))
        if session and not failed:
            failed = _first_failed([_check_outputs(session, self_test, BATCH_SIZES[-1:])])
    except ModelError as exc:
        logger.warning("%s; %s", exc, consequence)
    else:
        if failed:
            logger.warning("%s: %s; %s; to fix it, %s", model.name, _failure(failed), consequence, failed.fix)


def _require(model: Model, checks: Iterable[Check], fix: str) -> None:
    if failed := _first_failed(checks):
        raise ModelError(f"{model.name}: {_failure(failed)}; {fix}")


def _failure(check: Check) -> str:
    return f"the check {check.name!r} failed: {check.detail}"


def _first_failed(checks: Iterable[Check]) -> Check | None:
    return next((check for check in checks if not check.ok), None)


def _check_hashes(model: Model, self_test: SelfTest) -> Iterator[Check]:
    certified = self_test.certificate
    yield _check_hash("graph", model.graph_sha256, certified.graph_sha256)
    yield _check_hash("test images", sha256(model.metadata[probes.KEY]), certified.probes_sha256)
    labels = (model.card.labels[index] for index in self_test.probes.logits.argmax(axis=1))
    pairs = zip(labels, self_test.probes.labels, strict=True)
    mismatch = next((pair for pair in pairs if pair[0] != pair[1]), None)
    detail = f"{mismatch[0]!r} in the card, {mismatch[1]!r} at export" if mismatch else "unchanged"
    yield Check("labels of the test images", mismatch is None, detail, EXPORT_AGAIN if mismatch else "")
    card = _check_hash("model card", sha256(model.metadata[METADATA_KEY]), certified.card_sha256)
    calibrated = f"; calibrated on {certified.recalibration.data}" if card.ok and certified.recalibration else ""
    yield replace(card, detail=f"{card.detail}{calibrated}")


def _check_hash(name: str, actual: str, certified: str) -> Check:
    ok = actual == certified
    return Check(name, ok, "unchanged" if ok else "changed since export", "" if ok else EXPORT_AGAIN)


def _check_outputs(session: Session, self_test: SelfTest, batch_sizes: tuple[int, ...]) -> Check:
    """Compare the session's logits for the probes with the stored logits, in each batch size and two orders."""
    images_u8, expected = self_test.probes.images_u8, self_test.probes.logits
    orders = [np.arange(len(expected)), np.random.default_rng(0).permutation(len(expected))]
    batches = [
        order[start : start + size] for order in orders for size in batch_sizes for start in range(0, len(order), size)
    ]
    temperature, errors, softmax_errors = session.card.confidence.temperature, [], []
    largest = float(np.abs(expected).max())
    for rows in batches:
        logits, probabilities = session.run(images_u8[rows])
        errors.append(np.abs(logits - expected[rows]).max())
        softmax_errors.append(np.abs(probabilities - softmax(logits, temperature)).max())
    error, softmax_error = np.max(errors), np.max(softmax_errors)  # NaN if any value is NaN
    name = f"outputs on {NAMES[session.provider]}"
    fix = f"pass another --device, or {EXPORT_AGAIN} on this machine"
    if not softmax_error <= SOFTMAX_TOLERANCE * max(1.0, largest / (TOLERANCE_LOGIT * temperature)):
        return Check(name, False, f"probabilities differ from the softmax of the logits by {softmax_error:.2g}", fix)
    certified_bound = self_test.certificate.bound_on(session.provider)
    bound = self_test.certificate.uncertified_bound if certified_bound is None else certified_bound
    note = " (device not compared at export)" if certified_bound is None else ""
    ok = bool(error <= bound)
    return Check(name, ok, f"largest logit error {error:.2g}, allowed {bound:.2g}{note}", "" if ok else fix)
