"""Probes: the test images that a model carries, so that any machine can verify its answers."""

import numpy as np
from numpy.typing import NDArray

from netkit.export.parity.reference import Reference
from netkit.infer.model.probes import MAX_JSON_BYTES, MAX_PROBES, Probes


def choose_probes(reference: Reference, logits: NDArray[np.floating]) -> Probes:
    """Choose up to MAX_PROBES test images; `logits` (N, classes) are the model's, for all images of the reference.

    For each predicted class, takes the image with the smallest margin between its two largest logits, and then the
    smallest margins of all. Large images are fewer, so that the probes fit into MAX_JSON_BYTES bytes.
    """
    test_logits = logits[: len(reference.labels)]
    ranked = np.sort(test_logits, axis=1)
    by_margin = np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")
    labels = test_logits.argmax(axis=1)[by_margin]
    _, first_of_class = np.unique(labels, return_index=True)
    chosen = list(dict.fromkeys([*by_margin[np.sort(first_of_class)], *by_margin]))[:MAX_PROBES]
    probes = _probes(reference, logits, chosen)
    while len(probes.to_json()) > MAX_JSON_BYTES and len(chosen) > 1:
        chosen.pop()
        probes = _probes(reference, logits, chosen)
    return probes


def _probes(reference: Reference, logits: NDArray[np.floating], indices: list[int]) -> Probes:
    expected = logits[indices].astype(np.float64)
    labels = tuple(reference.card.labels[label] for label in expected.argmax(axis=1))
    return Probes(reference.images_u8[indices], expected, labels)
