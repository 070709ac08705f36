"""Calibration: how well the probabilities of a model agree with its accuracy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)
MAX_RESAMPLES = 1000  # of the bootstrap
MAX_IMAGE_DRAWS = 2 * 10**8  # images in all resamples together, which limits the time
MIN_RESAMPLES = 200  # even if they exceed MAX_IMAGE_DRAWS
MIN_PROBABILITY = 1e-38  # keeps the NLL finite if a probability underflows to 0 in float32


@dataclass(frozen=True)
class Bin:
    """The predictions with a confidence above `above` and up to `up_to`: mean `confidence` and accuracy.

    The confidence is the probability of the predicted class.
    """

    above: float
    up_to: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Estimate:
    """A value, and its 95 % confidence interval from `low` to `high` by the basic bootstrap (Davison and Hinkley 1997).

    The interval of a small ECE is too high: by chance, the accuracy of a bin differs from its confidence even if the
    model is calibrated; see docs/confidence.md.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True)
class Calibration:
    """The calibration of the probabilities softmax(logits / `temperature`).

    `ece` is the expected calibration error: the mean distance between confidence and accuracy of the `bins`, weighted
    by their images. `nll` is the mean negative log likelihood of the true class, and `brier` the Brier score: the mean
    sum of the squared differences between the probabilities and the true class. All are 0 for perfect probabilities.
    """

    temperature: float
    ece: Estimate
    nll: Estimate
    brier: Estimate
    bins: tuple[Bin, ...]

    @property
    def cells(self) -> dict[str, str]:
        """A row of the table that is printed."""
        measures = {"ECE": self.ece, "NLL": self.nll, "Brier score": self.brier}
        return {"temperature": f"{self.temperature:.4g}", **{name: str(value) for name, value in measures.items()}}


def measure(
    probabilities: NDArray[np.floating], predictions: NDArray[np.int64], labels: NDArray[np.int64], temperature: float
) -> Calibration:
    """Measure the calibration of probabilities (N, classes) of images whose true classes are `labels` (N,).

    `predictions` (N,) are the predicted classes. `temperature` is that of the probabilities.
    """
    rows, exact = np.arange(len(labels)), probabilities.astype(np.float64)
    confidences, correct = exact[rows, predictions], predictions == labels
    edges = np.linspace(0, 1, BINS + 1)
    indices = np.digitize(confidences, edges[1:-1], right=True)
    true_probabilities = exact[rows, labels]
    losses = -np.log(np.maximum(true_probabilities, MIN_PROBABILITY))
    brier_scores = np.square(exact).sum(axis=1) - 2 * true_probabilities + 1
    gaps = np.zeros((len(labels), BINS))
    gaps[rows, indices] = confidences - correct
    values = np.column_stack([gaps, losses, brier_scores])  # (N, BINS + 2)
    measured, resampled = _measures(values.mean(axis=0, keepdims=True))[0], _measures(_resampled_means(values))
    ece, nll, brier = map(_estimate, measured.tolist(), resampled.T)
    return Calibration(temperature, ece, nll, brier, _bins(edges, indices, confidences, correct))


def _estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """Return the value with its basic bootstrap interval; a measure cannot be negative."""
    low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
    return Estimate(value, max(0.0, 2 * value - high), max(0.0, 2 * value - low))


def _measures(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ECE, NLL and Brier score (R, 3) of the means (R, BINS + 2)."""
    return np.column_stack([np.abs(means[:, :BINS]).sum(axis=1), means[:, BINS:]])


def _resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the rows of `values` in each resample: (resamples, columns)."""
    rng, count = np.random.default_rng(0), len(values)
    resamples = max(MIN_RESAMPLES, min(MAX_RESAMPLES, MAX_IMAGE_DRAWS // count))
    draws = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples))
    return np.stack([draw @ values for draw in draws]) / count


def _bins(
    edges: NDArray[np.float64], indices: NDArray[np.int64], confidences: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[Bin, ...]:
    """Bins of equal width; empty ones are left out."""
    return tuple(
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(members.sum()),
            float(confidences[members].mean()),
            float(correct[members].mean()),
        )
        for index in range(BINS)
        if (members := indices == index).any()
    )
