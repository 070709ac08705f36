"""The parity gate: it lets through what computes the same, and stops what does not."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.convert import convert
from export.parity import Parity, measure
from infer import model as models
from infer.session import Session, open_session
from nets.build import build
from nets.card import ModelCard
from nets.data.dataset import DataSet


def open_bytes(content: bytes) -> Session:
    return open_session(models.check(content, "test.onnx"), device="cpu")


@pytest.fixture(scope="module")
def net(card: ModelCard) -> nn.Module:
    torch.manual_seed(0)
    return build(card).eval()


@pytest.fixture(scope="module")
def content(net: nn.Module, card: ModelCard) -> bytes:
    return convert(net, card)


def test_a_faithful_export_passes_and_its_numbers_are_right(
    net: nn.Module, card: ModelCard, content: bytes, digits_data: DataSet
) -> None:
    images = digits_data.test_images
    parity = measure(net, card, open_bytes(content), images)
    assert parity.holds
    assert (parity.images, parity.noise, parity.agreeing) == (355, 256, 355)
    assert 0 < parity.error < 1e-5 and 0 < parity.torch_error < 1e-5
    normalised = (torch.from_numpy(images).double() / 255 - card.mean[0]) / card.std[0]
    with torch.no_grad():
        truth = build(card).double().eval()
        truth.load_state_dict(net.state_dict())
        logits = truth.double()(normalised).numpy()
    ranked = np.sort(logits, axis=1)
    # scale and shift are rounded to float32 once; 1e-5 covers what that moves a margin by
    at_risk = (ranked[:, -1] - ranked[:, -2] <= 2 * parity.error + 1e-5).sum()
    assert parity.at_risk <= at_risk


def test_bound_is_twice_torchs_own_error_and_a_millionth_of_the_largest_logit(
    net: nn.Module, card: ModelCard, content: bytes, digits_data: DataSet
) -> None:
    parity = measure(net, card, open_bytes(content), digits_data.test_images[:50])
    slack = parity.bound - 2 * parity.torch_error
    assert slack == pytest.approx(1e-6, rel=1e-3)  # an untrained net's logits lie below 1


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_one_changed_weight_is_found(
    net: nn.Module, card: ModelCard, content: bytes, digits_data: DataSet, factor: float
) -> None:
    proto = onnx.load_model_from_string(content)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("conv2.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    parity = measure(net, card, open_bytes(proto.SerializeToString()), digits_data.test_images)
    assert not parity.holds
    assert "NOT within the bound" in str(parity)
    if np.isnan(factor):
        assert parity.at_risk == parity.images  # nothing is known of any


class OffInExport(nn.Module):
    """A net whose export is wrong on purpose: it scales its logits by 1.001 only while it is exported."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits * 1.001 if torch.compiler.is_exporting() else logits


def test_a_net_that_exports_to_something_else_is_found(net: nn.Module, card: ModelCard, digits_data: DataSet) -> None:
    wrong = OffInExport(net).eval()
    parity = measure(wrong, card, open_bytes(convert(wrong, card)), digits_data.test_images)
    assert not parity.holds


def test_a_model_whose_rows_depend_on_their_neighbours_is_found(
    net: nn.Module, card: ModelCard, content: bytes, digits_data: DataSet
) -> None:
    class Leaky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net(x)
            leak = logits.mean(dim=0, keepdim=True) * 1e-2
            return logits + leak if torch.compiler.is_exporting() else logits

    parity = measure(net, card, open_bytes(convert(Leaky().eval(), card)), digits_data.test_images)
    assert not parity.holds


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"error": 3e-5}, False),
        ({"error": float("nan")}, False),
        ({"probability_error": 3e-5}, False),
        ({"probability_error": float("nan")}, False),
    ],
)
def test_parity_holds_only_within_the_bound(change: dict[str, float], holds: bool) -> None:
    parity = Parity("CPUExecutionProvider", 100, 10, 1e-5, 1e-5, 1e-5, 2e-5, 100, 0)
    assert replace(parity, **change).holds is holds  # type: ignore[arg-type]  # the changed fields are floats
