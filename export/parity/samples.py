"""Choice of the probes: test images that a model carries, so that any machine can verify its outputs."""

import numpy as np
from numpy.typing import NDArray

from netkit.export.parity.reference import Reference
from netkit.infer.model.probes import MAX_JSON_BYTES, MAX_PROBES, Probes


def choose_probes(reference: Reference, logits: NDArray[np.floating]) -> Probes:
    """Choose up to MAX_PROBES test images; `logits` (N, classes) are the model's, for all images of the reference.

    Takes the image with the smallest margin between its two largest logits for each predicted class, then those with
    the smallest margins overall. Takes fewer images if MAX_PROBES would exceed MAX_JSON_BYTES.
    """
    test_logits = logits[: len(reference.labels)]
    ranked = np.sort(test_logits, axis=1)
    by_margin = np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")
    labels = test_logits.argmax(axis=1)[by_margin]
    _, first_of_class = np.unique(labels, return_index=True)
    indices = list(dict.fromkeys([*by_margin[np.sort(first_of_class)], *by_margin]))[:MAX_PROBES]
    probes = _probes(reference, logits, indices)
    while len(probes.to_json()) > MAX_JSON_BYTES and len(indices) > 1:
        indices.pop()
        probes = _probes(reference, logits, indices)
    return probes


def _probes(reference: Reference, logits: NDArray[np.floating], indices: list[int]) -> Probes:
    expected = logits[indices].astype(np.float64)
    labels = tuple(reference.card.labels[label] for label in expected.argmax(axis=1))
    return Probes(reference.images_u8[indices], expected, labels)
