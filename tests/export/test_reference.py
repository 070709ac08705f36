"""The reference is computed by PyTorch in float64, on test images and on synthetic images."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export.parity.reference import compute_reference, error_bound, float32_error, max_images, synthetic_inputs
from netkit.nets.build import build
from tests.support.export_networks import StoresActivations


def test_reference_logits_match_the_network_in_float64(card: ModelCard, digits_data: ArrayDataSet) -> None:
    torch.manual_seed(0)
    net = build(card).eval()
    reference = compute_reference(net, card, digits_data.test_images, digits_data.test_labels)
    normalized = (torch.from_numpy(digits_data.test_images).double() / 255 - card.mean[0]) / card.std[0]
    with torch.no_grad():
        logits = copy.deepcopy(net).double()(normalized).numpy()
    # the card's scale and shift are rounded to float32 once
    np.testing.assert_allclose(reference.test_logits, logits, atol=1e-5)
    assert reference.accuracy == (logits.argmax(axis=1) == digits_data.test_labels).mean()
    assert reference.counts == {"test": 355, "noise": 256, "black": 1, "white": 1, "single-pixel": 784}
    assert len(reference.images_u8) == len(reference.logits) == 355 + 256 + 2 + 784
    assert 0 < float32_error(reference, "cpu") < 1e-5
    assert next(net.parameters()).dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 3])
def test_synthetic_inputs_are_noise_black_white_and_single_pixels_at_all_positions(channels: int) -> None:
    kinds = synthetic_inputs(channels, 5, 7, max_per_kind=5000)
    assert {kind: len(images) for kind, images in kinds.items()} == {
        "noise": 256,
        "black": 1,
        "white": 1,
        "single-pixel": 35,
    }
    assert all(images.shape[1:] == (channels, 5, 7) and images.dtype == np.uint8 for images in kinds.values())
    assert kinds["noise"].min() == 0 and kinds["noise"].max() == 255
    assert (kinds["black"] == 0).all() and (kinds["white"] == 255).all()
    assert (kinds["single-pixel"].sum(axis=(2, 3), dtype=int) == 255).all()
    assert (kinds["single-pixel"].sum(axis=0, dtype=int) == 255).all()


def test_expensive_networks_run_on_fewer_images(card: ModelCard) -> None:
    densenet = replace(card, arch="densenet")
    large = replace(densenet, height=224, width=224)
    assert max_images(build(densenet), densenet) >= 10_000
    assert 32 <= max_images(build(large), large) < 1000


def test_reference_of_an_expensive_network_has_few_images_of_each_kind(
    card: ModelCard, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netkit.export.parity.reference.MAX_MULTIPLY_ADDS", 0)
    reference = compute_reference(build(card).eval(), card, digits_data.test_images, digits_data.test_labels)
    assert reference.counts == {"test": 32, "noise": 16, "black": 1, "white": 1, "single-pixel": 16}
    assert (reference.max_images, reference.max_batched_images) == (32, 16)
    np.testing.assert_array_equal(reference.images_u8[[0, 31]], digits_data.test_images[[0, -1]])  # evenly spaced


def test_reference_of_a_network_that_stores_its_activations_leaves_it_copyable(
    card: ModelCard, digits_data: ArrayDataSet
) -> None:
    net = StoresActivations(card.channels, len(card.labels), (card.height, card.width))
    reference = compute_reference(net, card, digits_data.test_images[:20], digits_data.test_labels[:20])
    assert copy.deepcopy(net).head.weight.equal(net.head.weight)
    assert float32_error(reference, "cpu") < 1e-4


def test_images_at_risk_have_a_margin_of_at_most_twice_the_error(card: ModelCard, digits_data: ArrayDataSet) -> None:
    reference = compute_reference(build(card).eval(), card, digits_data.test_images, digits_data.test_labels)
    logits = np.array([[0.0, 1.0, 5.0], [0.0, 4.0, 5.0], [5.0, 4.5, 4.9], [5.0, 5.0, 0.0]])
    small = replace(reference, labels=np.array([2, 2, 0, 0]), logits=np.concatenate([logits, logits]))
    assert [small.at_risk(error) for error in (0.0, 0.04, 0.06, 0.6, 2.1)] == [
        (3,),
        (3,),
        (2, 3),
        (1, 2, 3),
        (0, 1, 2, 3),
    ]
    assert small.at_risk(float("nan")) == (0, 1, 2, 3)
    assert small.accuracy == 1


def test_bound_grows_with_the_float32_error_and_with_large_logits() -> None:
    assert error_bound(1e-5, np.array([[0.5, -0.1]])) == pytest.approx(2.1e-5)
    assert error_bound(1e-5, np.array([[0.5, -30.0]])) == pytest.approx(5e-5)
