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
    """Return the temperature at which softmax(logits / temperature) has the smallest negative log likelihood.

    `logits` are (N, classes), `labels` the true classes (N,). If the logits predict all N classes correctly, there is
    no minimum. The result is then the temperature at which the mean probability of the predicted class is
    (N + 1) / (N + 2). It is rounded to four decimals and lies between MIN_TEMPERATURE and MAX_TEMPERATURE.
    """
    exact, count = logits.astype(np.float64), len(labels)
    true = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]  # the logits of the true classes

    def slope(inverse: float) -> float:
        """The derivative of the negative log likelihood with respect to 1 / temperature."""
        return float(((softmax(exact, 1 / inverse) * exact).sum(axis=1) - true).mean())

    def excess(inverse: float) -> float:
        return float(softmax(exact, 1 / inverse).max(axis=1).mean()) - (count + 1) / (count + 2)

    all_correct = bool((true == exact.max(axis=1)).all())
    return round(1 / _zero(excess if all_correct else slope, 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE), 4)


def softmax(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) over the last axis, in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _zero(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where an increasing function changes its sign, by bisection of the logarithm; or the nearer end."""
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return high
