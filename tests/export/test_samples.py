"""Which images a model carries: some of each class, the least sure ones, and no more than have room."""

from pathlib import Path

import numpy as np
import pytest

from netkit.core.model_card import ModelCard
from netkit.data.dataset import HeldDataSet
from netkit.export.parity import samples
from netkit.export.parity.compare import Truth, truth_of
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.verify import read_self_test
from netkit.nets.build import build
from netkit.nets.training import checkpoint


@pytest.fixture(scope="module")
def truth(card: ModelCard, digits_data: HeldDataSet) -> Truth:
    """Of test images that are told apart by their first pixels; the logits are made up: margins fall with the index."""
    count = len(digits_data.test_labels)
    logits = np.zeros((count, 10))
    logits[np.arange(count), digits_data.test_labels] = np.linspace(9, 1, count)
    return Truth(build(card), card, digits_data.test_images, {"test": count}, digits_data.test_labels, logits)


def test_of_each_class_the_least_sure_image_is_chosen_and_then_the_least_sure_of_all(truth: Truth) -> None:
    chosen = samples.choose(truth, truth.logits)
    last_of_class = {int(np.flatnonzero(truth.labels == label)[-1]) for label in range(10)}
    rest = [index for index in reversed(range(len(truth.labels))) if index not in last_of_class][:6]
    expected = sorted(last_of_class | set(rest))
    assert sorted(map(bytes, chosen.images_u8)) == sorted(bytes(truth.inputs[index]) for index in expected)
    assert sorted(chosen.labels) == sorted(str(truth.labels[index]) for index in expected)
    assert len(chosen.to_json()) <= 64 * 1024


def test_they_carry_the_logits_of_the_model_not_those_of_the_truth(truth: Truth) -> None:
    own = np.roll(truth.logits, 1, axis=1)
    chosen = samples.choose(truth, own)
    for image, logits, label in zip(chosen.images_u8, chosen.logits, chosen.labels, strict=True):
        (places,) = np.nonzero((truth.inputs == image).all(axis=(1, 2, 3)))
        assert any((own[place] == logits).all() for place in places)
        assert label == str(logits.argmax())


def test_large_images_are_fewer(card: ModelCard) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 60, 60), np.uint8)
    logits = np.random.default_rng(1).normal(size=(20, 10))
    large = Truth(build(card), card, images, {"test": 20}, logits.argmax(axis=1), logits)
    chosen = samples.choose(large, logits)
    assert 1 < len(chosen.labels) < 16
    assert len(chosen.to_json()) <= 64 * 1024


def test_an_exported_model_carries_sixteen_with_the_logits_of_float64(
    model: Model, workplace: Path, digits_data: HeldDataSet
) -> None:
    net, card = checkpoint.load(workplace / "runs/residual/model.safetensors")
    trained_truth = truth_of(net, card, digits_data.test_images, digits_data.test_labels)
    carried = read_self_test(model).probes
    assert carried.images_u8.shape == (16, 1, 28, 28)
    assert set(carried.labels) == {model.card.labels[answer] for answer in trained_truth.test_logits.argmax(axis=1)}
    for image, logits in zip(carried.images_u8, carried.logits, strict=True):
        (places,) = np.nonzero((trained_truth.inputs == image).all(axis=(1, 2, 3)))
        np.testing.assert_allclose(trained_truth.logits[places[0]], logits, rtol=0, atol=1e-12)
