"""The probes of a model: test images of each class, those with the smallest margins, as many as fit."""

from pathlib import Path

import numpy as np
import pytest

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export.parity.reference import Reference, compute_reference
from netkit.export.parity.samples import choose_probes
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.verify import read_self_test
from netkit.nets.build import build
from netkit.nets.training import checkpoint


@pytest.fixture(scope="module")
def reference(card: ModelCard, digits_data: ArrayDataSet) -> Reference:
    """Test images with invented logits: every label is right, and the margin falls with the index."""
    count = len(digits_data.test_labels)
    logits = np.zeros((count, 10))
    logits[np.arange(count), digits_data.test_labels] = np.linspace(9, 1, count)
    images, labels = digits_data.test_images, digits_data.test_labels
    return Reference(build(card), card, images, {"test": count}, labels, logits, max_images=count)


def test_the_smallest_margin_of_each_class_is_chosen_and_then_the_smallest_of_all(reference: Reference) -> None:
    chosen = choose_probes(reference, reference.logits)
    last_of_class = {int(np.flatnonzero(reference.labels == label)[-1]) for label in range(10)}
    rest = [index for index in reversed(range(len(reference.labels))) if index not in last_of_class][:6]
    expected = sorted(last_of_class | set(rest))
    assert sorted(map(bytes, chosen.images_u8)) == sorted(bytes(reference.images_u8[index]) for index in expected)
    assert sorted(chosen.labels) == sorted(str(reference.labels[index]) for index in expected)
    assert len(chosen.to_json()) <= 64 * 1024


def test_probes_have_the_logits_of_the_model_rather_than_those_of_the_reference(reference: Reference) -> None:
    own = np.roll(reference.logits, 1, axis=1)
    chosen = choose_probes(reference, own)
    for image, logits, label in zip(chosen.images_u8, chosen.logits, chosen.labels, strict=True):
        (indices,) = np.nonzero((reference.images_u8 == image).all(axis=(1, 2, 3)))
        assert any((own[index] == logits).all() for index in indices)
        assert label == str(logits.argmax())


def test_a_model_of_large_images_has_fewer_probes(card: ModelCard) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 60, 60), np.uint8)
    logits = np.random.default_rng(1).normal(size=(20, 10))
    large = Reference(build(card), card, images, {"test": 20}, logits.argmax(axis=1), logits, max_images=20)
    chosen = choose_probes(large, logits)
    assert 1 < len(chosen.labels) < 16
    assert len(chosen.to_json()) <= 64 * 1024


def test_an_exported_model_has_sixteen_probes_with_the_logits_of_float64(
    model: Model, workplace: Path, digits_data: ArrayDataSet
) -> None:
    net, card = checkpoint.load(workplace / "runs/residual/model.safetensors")
    trained = compute_reference(net, card, digits_data.test_images, digits_data.test_labels)
    probes = read_self_test(model).probes
    assert probes.images_u8.shape == (16, 1, 28, 28)
    assert set(probes.labels) == {model.card.labels[label] for label in trained.test_logits.argmax(axis=1)}
    for image, logits in zip(probes.images_u8, probes.logits, strict=True):
        (indices,) = np.nonzero((trained.images_u8 == image).all(axis=(1, 2, 3)))
        np.testing.assert_allclose(trained.logits[indices[0]], logits, rtol=0, atol=1e-12)
