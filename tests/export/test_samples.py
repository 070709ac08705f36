"""The probes of a model are test images of each class with the smallest margins, within a size limit."""

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
    """Test images with synthetic logits: every prediction is correct, and the margin decreases with the index."""
    count = len(digits_data.test_labels)
    logits = np.zeros((count, 10))
    logits[np.arange(count), digits_data.test_labels] = np.linspace(9, 1, count)
    images, labels = digits_data.test_images, digits_data.test_labels
    return Reference(build(card), card, images, {"test": count}, labels, logits, max_images=count)


def test_probes_have_the_smallest_margin_of_each_class_and_then_the_smallest_overall(
    reference: Reference,
) -> None:
    probes = choose_probes(reference, reference.logits)
    last_of_class = {int(np.flatnonzero(reference.labels == label)[-1]) for label in range(10)}
    rest = [index for index in reversed(range(len(reference.labels))) if index not in last_of_class][:6]
    expected = sorted(last_of_class | set(rest))
    assert sorted(map(bytes, probes.images_u8)) == sorted(bytes(reference.images_u8[index]) for index in expected)
    assert sorted(probes.labels) == sorted(str(reference.labels[index]) for index in expected)
    assert len(probes.to_json()) <= 64 * 1024


def test_probes_have_the_logits_of_the_model_and_not_of_the_reference(reference: Reference) -> None:
    model_logits = np.roll(reference.logits, 1, axis=1)
    probes = choose_probes(reference, model_logits)
    for image, logits, label in zip(probes.images_u8, probes.logits, probes.labels, strict=True):
        (indices,) = np.nonzero((reference.images_u8 == image).all(axis=(1, 2, 3)))
        assert any((model_logits[index] == logits).all() for index in indices)
        assert label == str(logits.argmax())


def test_model_for_large_images_has_fewer_probes(card: ModelCard) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 60, 60), np.uint8)
    logits = np.random.default_rng(1).normal(size=(20, 10))
    large = Reference(build(card), card, images, {"test": 20}, logits.argmax(axis=1), logits, max_images=20)
    probes = choose_probes(large, logits)
    assert 1 < len(probes.labels) < 16
    assert len(probes.to_json()) <= 64 * 1024


def test_exported_model_has_sixteen_probes_with_float64_logits(
    model: Model, workspace: Path, digits_data: ArrayDataSet
) -> None:
    net, card = checkpoint.load(workspace / "runs/residual/model.safetensors")
    trained = compute_reference(net, card, digits_data.test_images, digits_data.test_labels)
    probes = read_self_test(model).probes
    assert probes.images_u8.shape == (16, 1, 28, 28)
    assert set(probes.labels) == {model.card.labels[label] for label in trained.test_logits.argmax(axis=1)}
    for image, logits in zip(probes.images_u8, probes.logits, strict=True):
        (indices,) = np.nonzero((trained.images_u8 == image).all(axis=(1, 2, 3)))
        np.testing.assert_allclose(trained.logits[indices[0]], logits, rtol=0, atol=1e-12)
