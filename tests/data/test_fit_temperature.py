"""The fitted temperature minimizes the negative log likelihood, as PyTorch computes it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from netkit.core.model_card import MAX_TEMPERATURE, MIN_TEMPERATURE, Confidence
from netkit.data.temperature import fit_confidence, fit_temperature, softmax


def scaled_logits(count: int, scale: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits (count, 5), and labels drawn with the probabilities softmax(logits / scale)."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(logits, 1)])
    return (scale * logits).astype(np.float32), labels


def nll(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float) -> float:
    return F.cross_entropy(torch.from_numpy(logits).double() / temperature, torch.from_numpy(labels)).item()


def mean_confidence(logits: NDArray[np.floating], temperature: float) -> float:
    return float((torch.from_numpy(logits).double() / temperature).softmax(1).max(1).values.mean())


@given(st.floats(0.2, 5), st.integers(0, 100))
def test_other_temperatures_have_a_larger_negative_log_likelihood(scale: float, seed: int) -> None:
    logits, labels = scaled_logits(300, scale, seed)
    temperature = fit_temperature(logits, labels)
    smallest = nll(logits, labels, temperature)
    assert all(nll(logits, labels, factor * temperature) > smallest for factor in (0.5, 0.99, 1.01, 2))


def test_the_temperature_undoes_a_scale_of_the_logits() -> None:
    logits, labels = scaled_logits(20_000, 2.5)
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("mistakes", [0, 1])
def test_the_mean_confidence_is_at_most_that_of_the_rule_of_succession(mistakes: int) -> None:
    logits, labels = scaled_logits(500, 1)
    logits += 20 * np.eye(5, dtype=np.float32)[labels]
    labels[:mistakes] = np.argsort(logits[:mistakes], axis=1)[:, -2]
    confidence = mean_confidence(logits, fit_temperature(logits, labels))
    if mistakes:
        assert confidence < 501 / 502
    else:
        assert confidence == pytest.approx(501 / 502, abs=1e-4)


def test_the_temperature_has_limits() -> None:
    labels = np.arange(200) % 5
    never_right = np.eye(5)[(labels + 1) % 5]
    assert fit_temperature(never_right, labels) == MAX_TEMPERATURE
    assert fit_temperature(1e-6 * np.eye(5)[labels], labels) == MIN_TEMPERATURE


def test_at_least_100_images_are_needed() -> None:
    logits, labels = scaled_logits(100, 2)
    assert fit_confidence(logits, labels) == Confidence(fit_temperature(logits, labels), 100)
    assert fit_confidence(logits[:99], labels[:99]) == Confidence(1.0, 0)


def test_softmax_equals_that_of_pytorch_and_does_not_overflow() -> None:
    logits = np.array([[1e4, 0, -1e4], [1.0, 2.0, 3.0]])
    assert softmax(logits, 0.5) == pytest.approx((torch.from_numpy(logits) / 0.5).softmax(1).numpy())
