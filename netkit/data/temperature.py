"""Temperature scaling: probabilities that agree with the accuracy, after Guo et al. 2017 (arXiv:1706.04599)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from netkit.core.model_card import MAX_TEMPERATURE, MIN_TEMPERATURE, Confidence

MIN_IMAGES = 100  # with fewer, a fitted temperature varies too much
BISECTIONS = 60

Floats = NDArray[np.floating]


def fit_confidence(logits: Floats, labels: NDArray[np.int64]) -> Confidence:
    """Fit a temperature to logits (N, classes) of images whose true classes are `labels` (N,).

    With fewer than MIN_IMAGES images, the temperature is 1.
    """
    return Confidence(fit_temperature(logits, labels), len(labels)) if len(labels) >= MIN_IMAGES else Confidence()


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimizes the negative log likelihood of softmax(logits / temperature).

    `logits` are (N, classes), `labels` the true classes (N,). The temperature is higher than the minimizer if the mean
    probability of the predicted classes would exceed (N + 1) / (N + 2), the estimate of Laplace's rule of succession
    after N correct predictions. Without this limit, it would approach 1 if there are no mistakes. The temperature is
    rounded to four decimals and lies in [MIN_TEMPERATURE, MAX_TEMPERATURE].
    """
    logits = logits.astype(np.float64)
    true_logits = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    max_confidence = (len(labels) + 1) / (len(labels) + 2)

    def nll_derivative(inverse: float) -> float:
        """The derivative of the negative log likelihood with respect to 1 / temperature."""
        return float(((softmax(logits, 1 / inverse) * logits).sum(axis=1) - true_logits).mean())

    def excess_confidence(inverse: float) -> float:
        """The mean probability of the predicted classes, minus its limit."""
        return float(softmax(logits, 1 / inverse).max(axis=1).mean()) - max_confidence

    limits = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    return round(1 / min(_bisect_root(function, *limits) for function in (nll_derivative, excess_confidence)), 4)


def softmax(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) over the last axis, in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _bisect_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of an increasing function in [low, high], by bisection in log space; or the nearer end."""
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return high
