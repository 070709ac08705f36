"""Which test images a model carries to prove itself by: of every class, and those that it is least sure of."""

import numpy as np
from numpy.typing import NDArray

from netkit.export.parity.compare import Truth
from netkit.infer.model.probes import MAX_JSON_BYTES, MAX_PROBES, Probes


def choose(truth: Truth, logits: NDArray[np.floating]) -> Probes:
    """MAX_PROBES test images, fewer where they are large, with the model's `logits` (N, classes) of all inputs.

    First comes of each class the one with the smallest margin between its two largest logits, then the smallest margins
    of all.
    """
    of_tests = logits[: len(truth.labels)]
    ranked = np.sort(of_tests, axis=1)
    by_margin = np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")
    answers = of_tests.argmax(axis=1)[by_margin]
    _, first_of_class = np.unique(answers, return_index=True)
    chosen = list(dict.fromkeys([*by_margin[np.sort(first_of_class)], *by_margin]))[:MAX_PROBES]
    probes = _probes(truth, logits, chosen)
    while len(probes.to_json()) > MAX_JSON_BYTES and len(chosen) > 1:
        chosen.pop()
        probes = _probes(truth, logits, chosen)
    return probes


def _probes(truth: Truth, logits: NDArray[np.floating], chosen: list[int]) -> Probes:
    expected = logits[chosen].astype(np.float64)
    return Probes(
        truth.inputs[chosen], expected, tuple(truth.card.labels[answer] for answer in expected.argmax(axis=1))
    )
