"""Float64 logits are computed for every network whose logits depend on one image, and refused for the others."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.export.parity.float64 import float64_logits
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from tests.support.export_networks import (
    ActiveDropout,
    AssertsFloat32,
    CastToFloat,
    ExpandToBatch,
    FixedBatch,
    FloatConstant,
    HalfInside,
    MinusBatchMean,
    UserNetwork,
    WithLayer,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 28, 28), np.uint8)


def test_logits_equal_those_of_the_network_converted_to_float64(card: ModelCard) -> None:
    net = build(card).eval()
    logits, without_casts = float64_logits(net, card, IMAGES)
    with torch.no_grad():
        expected = FromPixels(copy.deepcopy(net), card).double()(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)
    assert not without_casts
    assert next(net.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("network", "without_casts"),
    [(CastToFloat, True), (HalfInside, True), (FloatConstant, False), (ExpandToBatch, False)],
)
def test_networks_that_mix_types_also_run_in_float64(
    card: ModelCard, network: type[UserNetwork], without_casts: bool
) -> None:
    net = network(1, 10, (28, 28)).eval()
    logits, ignored = float64_logits(net, card, IMAGES)
    with torch.no_grad():
        float32 = FromPixels(net, card)(torch.from_numpy(IMAGES)).numpy()
    error = np.abs(logits - float32).max()
    assert logits.dtype == np.float64
    assert 0 < error < 1e-2 * np.abs(logits).max()
    assert ignored == without_casts


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ActiveDropout(1, 10, (28, 28)), "differ from run to run"),
        (MinusBatchMean(1, 10, (28, 28)), "depend on the other images of its batch"),
        (
            WithLayer(nn.BatchNorm2d(8, track_running_stats=False), 1, 10, (28, 28)),
            "depend on the other images of its batch",
        ),
        (FixedBatch(1, 10, (28, 28)), "does not run in float64 on batches of any size"),
        (AssertsFloat32(1, 10, (28, 28)), "does not run in float64 on batches of any size"),
    ],
)
def test_logits_that_depend_on_more_than_the_image_are_refused(card: ModelCard, net: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=f"residual: .*{message}"):
        float64_logits(net.eval(), card, IMAGES)
