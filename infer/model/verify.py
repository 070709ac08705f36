"""Verify: what a model's certificate says, tested again on the machine that runs it. Needs no PyTorch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import ModelError
from netkit.core.model_card import METADATA_KEY
from netkit.infer.model import certificate, probes
from netkit.infer.model.certificate import Certificate, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import Probes
from netkit.infer.runtime.session import Session, open_session, open_sessions

BATCHES = (1, 2, 7, 16)
SAME = 1e-5  # what probabilities may differ by from the softmax of the logits, which is float32


@dataclass(frozen=True)
class Proof:
    """What a model carries to prove itself."""

    certificate: Certificate
    probes: Probes


@dataclass(frozen=True)
class Finding:
    """Something that was checked: what, whether it is right, and what was seen."""

    what: str
    right: bool
    seen: str


def proof_of(model: Model) -> Proof:
    """Raises ModelError where the model carries none, or it cannot be read."""
    for key in (certificate.KEY, probes.KEY):
        if key not in model.metadata:
            raise ModelError(f"{model.name}: no {key} in this model; make it again with 'netkit export'")
    try:
        return Proof(
            Certificate.from_json(model.metadata[certificate.KEY]),
            Probes.from_json(model.metadata[probes.KEY], model.card),
        )
    except ModelError as fault:
        raise ModelError(f"{model.name}: {fault}") from None


def verify(model: Model, *, device: str) -> Iterator[Finding]:
    """Check that the model is the certified one, then its answers on the device; "auto": on each that works here.

    A graph that was changed is not run: no one knows what it does. Raises ModelError where the model carries no proof,
    DeviceError where the device cannot be used.
    """
    proof = proof_of(model)
    graph, *others = _unchanged(model, proof)
    yield from (graph, *others)
    if graph.right:
        for session in open_sessions(model, device=device):
            yield _answers(session, proof, BATCHES)


def open_proven(model: Model, *, device: str, threads: int | None = None) -> Session:
    """Open the model as `open_session` does, if it proves itself: unchanged, and its probes answered as certified.

    Raises ModelError where it does not, or carries no proof.
    """
    proof = proof_of(model)
    _require(model, _unchanged(model, proof))
    session = open_session(model, device=device, threads=threads)
    _require(model, [_answers(session, proof, BATCHES[-1:])])
    return session


def _require(model: Model, findings: Iterable[Finding]) -> None:
    wrong = next((finding for finding in findings if not finding.right), None)
    if wrong:
        raise ModelError(
            f"{model.name}: does not prove itself: {wrong.what}: {wrong.seen}; make it again with 'netkit export', or "
            "run it as it is with --no-verify"
        )


def _unchanged(model: Model, proof: Proof) -> Iterator[Finding]:
    certified = proof.certificate
    yield _same("graph", model.graph_sha256, certified.graph_sha256)
    yield _same("probes", sha256(model.metadata[probes.KEY]), certified.probes_sha256)
    named = tuple(model.card.labels[index] for index in proof.probes.logits.argmax(axis=1))
    pairs = [(here, there) for here, there in zip(named, proof.probes.labels, strict=True) if here != there]
    seen = f"{pairs[0][0]!r} by the card, {pairs[0][1]!r} when it was certified" if pairs else "as certified"
    yield Finding("labels", not pairs, seen)
    yield _same("card", sha256(model.metadata[METADATA_KEY]), certified.card_sha256)


def _same(what: str, found: str, certified: str) -> Finding:
    right = found == certified
    return Finding(what, right, "as certified" if right else "changed since it was certified")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def _answers(session: Session, proof: Proof, batches: tuple[int, ...]) -> Finding:
    """The largest error of the probes' logits, over the sizes of batches, in their order and in another."""
    images_u8, expected = proof.probes.images_u8, proof.probes.logits
    orders = [np.arange(len(expected)), np.random.default_rng(0).permutation(len(expected))]
    errors, strayed = [], []
    for order in orders:
        for size in batches:
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                logits, probabilities = session.run(images_u8[rows])
                errors.append(float(np.abs(logits - expected[rows]).max()))
                strayed.append(float(np.abs(probabilities - _softmax(logits)).max()))
    error, astray = float(np.max(errors)), float(np.max(strayed))  # NaN if one of them is
    if not astray <= SAME:
        return Finding(session.provider, False, f"probabilities are not those of the logits, by up to {astray:.2g}")
    bound = proof.certificate.bound_on(session.provider)
    allowed = proof.certificate.loosest_bound if bound is None else bound
    note = " (this provider is not certified)" if bound is None else ""
    return Finding(session.provider, error <= allowed, f"largest error {error:.2g}, bound {allowed:.2g}{note}")
