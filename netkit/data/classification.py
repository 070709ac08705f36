"""What a classifier gets wrong: the confusion matrix and the worst mistakes. Training and evaluation share both."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def confusion_matrix(labels: Indices, predictions: Indices, classes: int) -> Indices:
    """Counts (classes, classes) of images by their true class (row) and their predicted class (column).

    `labels` and `predictions` are class indices (N,).
    """
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def worst_mistakes(
    labels: Indices, predictions: Indices, true_probabilities: NDArray[np.floating], *, count: int
) -> Indices:
    """Indices of the `count` mistakes with the largest cross entropy, the worst first.

    `labels` and `predictions` are class indices (N,); `true_probabilities` (N,) are the predicted probabilities of the
    true classes. Images with equal probabilities keep their order.
    """
    mistakes = np.flatnonzero(predictions != labels)
    return mistakes[np.argsort(true_probabilities[mistakes], kind="stable")][:count]
