"""The confusion matrix, compared with scikit-learn, and the worst mistakes."""

import numpy as np
from sklearn import metrics

from netkit.data.classification import confusion_matrix, worst_mistakes


def test_the_confusion_matrix_equals_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 7, (2, 500))
    expected = metrics.confusion_matrix(labels, predictions, labels=range(8))
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 8), expected)


def test_worst_mistakes_are_the_wrong_predictions_with_the_least_probable_true_class() -> None:
    labels = np.array([0, 1, 2, 3, 4])
    predictions = np.array([0, 2, 2, 0, 1])
    true_probabilities = np.array([0.01, 0.3, 0.9, 0.1, 0.3])
    assert worst_mistakes(labels, predictions, true_probabilities, count=5).tolist() == [3, 1, 4]
    assert worst_mistakes(labels, predictions, true_probabilities, count=1).tolist() == [3]
