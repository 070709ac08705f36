"""Calibration: the measures equal those of scikit-learn, and a calibrated model passes its checks."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from netkit.core.errors import DataError, ModelError
from netkit.data.dataset import ArrayDataSet
from netkit.data.temperature import fit_temperature, softmax
from netkit.infer.evaluation.calibration import Calibration, measure
from netkit.infer.model import verify
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.recalibration import recalibrated
from netkit.infer.model.verify import read_self_test
from netkit.infer.runtime.session import Session, open_session

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def digits(session: Session, digits_data: ArrayDataSet) -> Digits:
    """The logits of the model for the test images, and their labels."""
    return session.run(digits_data.test_images)[0], digits_data.test_labels


def measured(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> Calibration:
    return measure(softmax(logits, temperature), logits.argmax(axis=1), labels, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_nll_and_brier_score_equal_those_of_scikit_learn(digits: Digits, temperature: float) -> None:
    logits, labels = digits
    calibration, probabilities = measured(logits, labels, temperature), softmax(logits, temperature)
    assert calibration.nll.value == pytest.approx(metrics.log_loss(labels, probabilities))
    brier = sum(metrics.brier_score_loss(labels == label, probabilities[:, label]) for label in range(10))
    assert calibration.brier.value == pytest.approx(brier)


def test_intervals_contain_the_value_and_shrink_with_the_number_of_images(digits: Digits) -> None:
    logits, labels = digits
    few = measured(logits, labels)
    many = measured(np.tile(logits, (16, 1)), np.tile(labels, 16))
    for name in ("ece", "nll", "brier"):
        small, large = getattr(few, name), getattr(many, name)
        assert small.low < small.value < small.high and large.value == pytest.approx(small.value)
        assert large.high - large.low == pytest.approx((small.high - small.low) / 4, rel=0.25)


def test_the_interval_of_the_ece_contains_that_of_the_population_in_most_samples() -> None:
    rng, count, gap = np.random.default_rng(0), 1000, 0.05
    hits = 0
    for _ in range(40):
        confidences = rng.uniform(0.6, 0.95, count)
        correct = rng.random(count) < confidences - gap
        probabilities = np.column_stack([confidences, 1 - confidences])
        ece = measure(probabilities, np.zeros(count, np.int64), np.where(correct, 0, 1), 1.0).ece
        hits += ece.low <= gap <= ece.high
    assert hits >= 34


def test_intervals_of_the_nll_agree_with_the_normal_approximation(digits: Digits) -> None:
    logits, labels = digits
    losses = -np.log(softmax(logits, 1.0)[np.arange(len(labels)), labels])
    nll = measured(logits, labels).nll
    assert nll.high - nll.low == pytest.approx(2 * 1.96 * losses.std() / len(labels) ** 0.5, rel=0.15)


def test_a_probability_of_0_gives_a_finite_nll() -> None:
    calibration = measured(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([1, 1]), 0.05)
    assert np.isfinite(calibration.nll.value) and calibration.brier.value == pytest.approx(1)


def test_a_calibrated_model_passes_its_checks_and_names_its_origin(model: Model, digits: Digits) -> None:
    new = recalibrated(model, *digits, data="photos")
    assert new.card.confidence.temperature == fit_temperature(*digits) != 1
    assert new.card == replace(model.card, confidence=new.card.confidence) and new.card.confidence.images == 355
    assert all(check.ok for check in verify.verify(new, device="cpu"))
    certificate, earlier = read_self_test(new).certificate, read_self_test(model).certificate
    assert certificate.recalibration is not None and earlier.recalibration is None
    assert (certificate.recalibration.data, certificate.recalibration.model_sha256) == ("photos", model.sha256)
    assert certificate.weights_sha256 == earlier.weights_sha256


def test_probability_errors_of_a_calibrated_model_are_below_the_certified_limit(
    model: Model, digits: Digits, digits_data: ArrayDataSet
) -> None:
    new = recalibrated(model, *digits, data="photos")
    probes = read_self_test(new).probes
    _, probabilities = open_session(new, device="cpu").run(probes.images_u8)
    error = np.abs(probabilities - softmax(probes.logits, new.card.confidence.temperature)).max()
    rounding = 1e-6
    assert error <= read_self_test(new).certificate.comparisons[0].probability_error + rounding < 1e-3
    assert all(comparison.holds for comparison in read_self_test(new).certificate.comparisons)


def test_a_changed_temperature_fails_the_checks(model: Model, digits: Digits) -> None:
    new = recalibrated(model, *digits, data="photos")
    wrong_card = replace(new, card=replace(new.card, confidence=replace(new.card.confidence, temperature=3.0)))
    with pytest.raises(ModelError, match="probabilities differ from the softmax of the logits"):
        verify.open_verified(wrong_card, device="cpu")


def test_fewer_than_100_images_are_refused(model: Model, digits: Digits) -> None:
    logits, labels = digits
    with pytest.raises(DataError, match="photos: has 99 images to calibrate on; at least 100 are needed"):
        recalibrated(model, logits[:99], labels[:99], data="photos")
