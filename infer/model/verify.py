"""Verification: a model's certificate, tested again on the machine that runs the model. Needs no PyTorch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import ModelError
from netkit.core.model_card import METADATA_KEY
from netkit.infer.check import Check
from netkit.infer.model import certificate, probes
from netkit.infer.model.certificate import Certificate, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import Probes
from netkit.infer.runtime.session import Session, open_session, open_sessions

BATCH_SIZES = (1, 2, 7, 16)
SOFTMAX_TOLERANCE = 1e-5  # for probabilities, which are float32, against the softmax of the logits


@dataclass(frozen=True)
class SelfTest:
    """What a model carries for its verification."""

    certificate: Certificate
    probes: Probes


def read_self_test(model: Model) -> SelfTest:
    """The certificate and the probes in the model's metadata. Raises ModelError if one is missing or malformed."""
    for key in (certificate.KEY, probes.KEY):
        if key not in model.metadata:
            raise ModelError(f"{model.name}: no {key} in this model; make it again with 'netkit export'")
    try:
        return SelfTest(
            Certificate.from_json(model.metadata[certificate.KEY]),
            Probes.from_json(model.metadata[probes.KEY], model.card),
        )
    except ModelError as exc:
        raise ModelError(f"{model.name}: {exc}") from None


def verify(model: Model, *, device: str) -> Iterator[Check]:
    """Check the model's hashes, and its answers on `device`; "auto" means every device that works here.

    A model whose graph was changed does not run. Raises ModelError if the model carries no certificate or probes,
    DeviceError if the device cannot be used.
    """
    self_test = read_self_test(model)
    graph, *others = _check_hashes(model, self_test)
    yield from (graph, *others)
    if graph.ok:
        for session in open_sessions(model, device=device):
            yield _check_answers(session, self_test, BATCH_SIZES)


def open_verified(model: Model, *, device: str, threads: int | None = None) -> Session:
    """Open the model as `open_session` does, after its hashes and its answers to the probes were checked.

    Raises ModelError if a check fails, or if the model carries no certificate or probes.
    """
    self_test = read_self_test(model)
    _require(model, _check_hashes(model, self_test))
    session = open_session(model, device=device, threads=threads)
    _require(model, [_check_answers(session, self_test, BATCH_SIZES[-1:])])
    return session


def _require(model: Model, checks: Iterable[Check]) -> None:
    failed = next((check for check in checks if not check.ok), None)
    if failed:
        raise ModelError(
            f"{model.name}: verification failed: {failed.name}: {failed.detail}; make it again with 'netkit export', "
            "or run it as it is with --no-verify"
        )


def _check_hashes(model: Model, self_test: SelfTest) -> Iterator[Check]:
    certified = self_test.certificate
    yield _check_hash("graph", model.graph_sha256, certified.graph_sha256)
    yield _check_hash("probes", sha256(model.metadata[probes.KEY]), certified.probes_sha256)
    labels = (model.card.labels[index] for index in self_test.probes.logits.argmax(axis=1))
    pairs = zip(labels, self_test.probes.labels, strict=True)
    differing = next(((now, then) for now, then in pairs if now != then), None)
    detail = f"{differing[0]!r} by the card, {differing[1]!r} when it was certified" if differing else "as certified"
    yield Check("labels", differing is None, detail)
    yield _check_hash("card", sha256(model.metadata[METADATA_KEY]), certified.card_sha256)


def _check_hash(name: str, actual: str, certified: str) -> Check:
    ok = actual == certified
    return Check(name, ok, "as certified" if ok else "changed since it was certified")


def _check_answers(session: Session, self_test: SelfTest, batch_sizes: tuple[int, ...]) -> Check:
    """Compare the session's answers to the probes with those of the certificate, in each batch size and two orders."""
    images_u8, expected = self_test.probes.images_u8, self_test.probes.logits
    orders = [np.arange(len(expected)), np.random.default_rng(0).permutation(len(expected))]
    batches = [
        order[start : start + size] for order in orders for size in batch_sizes for start in range(0, len(order), size)
    ]
    errors, softmax_errors = [], []
    for rows in batches:
        logits, probabilities = session.run(images_u8[rows])
        errors.append(np.abs(logits - expected[rows]).max())
        softmax_errors.append(np.abs(probabilities - _softmax(logits)).max())
    error, softmax_error = np.max(errors), np.max(softmax_errors)  # NaN if one of them is
    if not softmax_error <= SOFTMAX_TOLERANCE:
        return Check(
            session.provider, False, f"probabilities differ from the softmax of the logits by {softmax_error:.2g}"
        )
    certified = self_test.certificate.bound_on(session.provider)
    bound = self_test.certificate.loosest_bound if certified is None else certified
    note = " (this provider is not certified)" if certified is None else ""
    return Check(session.provider, bool(error <= bound), f"largest error {error:.2g}, bound {bound:.2g}{note}")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)
