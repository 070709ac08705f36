"""The confusion matrix and the worst mistakes of a classifier, for training and evaluation."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def confusion_matrix(labels: Indices, predictions: Indices, classes: int) -> Indices:
    """Count images by true class (row) and predicted class (column); the result is (classes, classes).

    `labels` and `predictions` are class indices (N,).
    """
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def worst_mistakes(
    labels: Indices, predictions: Indices, true_probabilities: NDArray[np.floating], *, count: int
) -> Indices:
    """Return the indices of the `count` mistakes with the largest cross entropy, worst first.

    `labels` and `predictions` are class indices (N,); `true_probabilities` (N,) are the predicted probabilities of the
    true classes. Images with equal probabilities keep their order.
    """
    mistakes = np.flatnonzero(predictions != labels)
    return mistakes[np.argsort(true_probabilities[mistakes], kind="stable")][:count]
