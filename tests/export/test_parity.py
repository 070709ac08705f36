"""The parity gate: it lets through what computes the same, and stops what does not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.data.dataset import HeldDataSet
from netkit.export.convert import convert
from netkit.export.parity.compare import Truth, _interval, compare, made_up, torch_error, truth_of
from netkit.infer.model import onnx_file
from netkit.infer.model.certificate import Comparison
from netkit.infer.runtime.session import Session, open_session
from netkit.nets.build import build


def open_bytes(content: bytes, *, optimised: bool = True) -> Session:
    return open_session(onnx_file.check(content, "test.onnx"), device="cpu", optimised=optimised)


@pytest.fixture(scope="module")
def net(card: ModelCard) -> nn.Module:
    torch.manual_seed(0)
    return build(card).eval()


@pytest.fixture(scope="module")
def content(net: nn.Module, card: ModelCard) -> bytes:
    return convert(net, card)


@pytest.fixture(scope="module")
def truth(net: nn.Module, card: ModelCard, digits_data: HeldDataSet) -> Truth:
    return truth_of(net, card, digits_data.test_images, digits_data.test_labels)


@pytest.fixture(scope="module")
def error_of_torch(truth: Truth) -> float:
    return torch_error(truth, "cpu")


def test_the_truth_is_the_net_in_float64(
    truth: Truth, net: nn.Module, card: ModelCard, digits_data: HeldDataSet
) -> None:
    normalised = (torch.from_numpy(digits_data.test_images).double() / 255 - card.mean[0]) / card.std[0]
    with torch.no_grad():
        logits = copy.deepcopy(net).double()(normalised).numpy()
    # scale and shift are rounded to float32 once
    np.testing.assert_allclose(truth.test_logits, logits, atol=1e-5)
    assert truth.accuracy == (logits.argmax(axis=1) == digits_data.test_labels).mean()
    assert truth.counts == {"test": 355, "noise": 256, "black": 1, "white": 1, "point": 784}
    assert len(truth.inputs) == len(truth.logits) == 355 + 256 + 2 + 784


@pytest.mark.parametrize("channels", [1, 3])
def test_made_up_images_are_noise_black_white_and_single_pixels_at_all_places(channels: int) -> None:
    kinds = made_up(channels, 5, 7, most=5000)
    assert {kind: len(images) for kind, images in kinds.items()} == {"noise": 256, "black": 1, "white": 1, "point": 35}
    assert all(images.shape[1:] == (channels, 5, 7) and images.dtype == np.uint8 for images in kinds.values())
    assert kinds["noise"].min() == 0 and kinds["noise"].max() == 255
    assert (kinds["black"] == 0).all() and (kinds["white"] == 255).all()
    assert (kinds["point"].sum(axis=(2, 3), dtype=int) == 255).all()
    assert (kinds["point"].sum(axis=0, dtype=int) == 255).all()


@pytest.mark.parametrize("optimised", [True, False])
def test_a_faithful_export_passes_and_its_numbers_are_right(
    truth: Truth, content: bytes, error_of_torch: float, optimised: bool
) -> None:
    found = compare(truth, open_bytes(content, optimised=optimised), optimised=optimised, torch_error=error_of_torch)
    assert found.holds
    assert (found.provider, found.optimised, found.test_images) == ("CPUExecutionProvider", optimised, 355)
    assert (found.agreeing, found.accuracy, found.interval) == (355, truth.accuracy, (-3 / 355, 3 / 355))
    assert 0 < found.error < 1e-5 and 0 < found.torch_error < 1e-5
    assert found.bound - 2 * error_of_torch == pytest.approx(1e-6, rel=1e-3)  # an untrained net's logits lie below 1


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_one_changed_weight_is_found(truth: Truth, content: bytes, error_of_torch: float, factor: float) -> None:
    proto = onnx.load_model_from_string(content)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("conv2.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    found = compare(truth, open_bytes(proto.SerializeToString()), optimised=True, torch_error=error_of_torch)
    assert not found.holds
    assert "NOT within the bound" in str(found)


def test_a_model_whose_rows_depend_on_their_neighbours_is_found(
    truth: Truth, net: nn.Module, card: ModelCard, error_of_torch: float
) -> None:
    class Leaky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net(x)
            return logits + logits.mean(dim=0, keepdim=True) * 1e-2

    found = compare(truth, open_bytes(convert(Leaky().eval(), card)), optimised=True, torch_error=error_of_torch)
    assert not found.holds


def test_a_model_that_is_wrong_in_one_size_of_batches_or_in_another_order_is_found(
    truth: Truth, content: bytes, error_of_torch: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a runtime would be that has a fault there: the session gives a wrong logit for some of what it is given."""
    session, run = open_bytes(content), Session.run
    chunks = [truth.inputs[start : start + 64] for start in range(0, len(truth.inputs), 64)]

    def faulty(*, when: Callable[[NDArray[np.uint8]], bool]) -> Comparison:
        def spoilt(self: Session, images_u8: NDArray[np.uint8], **options: Any) -> tuple[Any, Any]:
            logits, probabilities = run(self, images_u8, **options)
            return logits + when(images_u8), probabilities

        monkeypatch.setattr(Session, "run", spoilt)
        return compare(truth, session, optimised=True, torch_error=error_of_torch)

    for size in (1, 2, 3, 7, 64):
        assert not faulty(when=lambda images, size=size: len(images) == size).holds  # type: ignore[misc]
    assert not faulty(when=lambda images: len(images) == len(truth.labels) % 64).holds  # an odd tail
    # 64 at once, but not 64 neighbours
    assert not faulty(
        when=lambda images: len(images) == 64 and not any(np.array_equal(images, chunk) for chunk in chunks)
    ).holds
    assert faulty(when=lambda images: False).holds


@pytest.mark.parametrize("optimised", [True, False])
def test_without_optimisation_the_runtime_runs_the_graph_as_it_stands(content: bytes, optimised: bool) -> None:
    options = open_bytes(content, optimised=optimised)._runtime.get_session_options()
    level = ort.GraphOptimizationLevel
    assert options.graph_optimization_level == (level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL)


def test_images_at_risk_are_those_whose_margin_twice_the_error_can_use_up(truth: Truth) -> None:
    logits = np.array([[0.0, 1.0, 5.0], [0.0, 4.0, 5.0], [5.0, 4.5, 4.9], [5.0, 5.0, 0.0]])
    few = replace(truth, labels=np.array([2, 2, 0, 0]), logits=np.concatenate([logits, logits]))
    assert [few.at_risk(error) for error in (0.0, 0.04, 0.06, 0.6, 2.1)] == [
        (3,),
        (3,),
        (2, 3),
        (1, 2, 3),
        (0, 1, 2, 3),
    ]
    assert few.at_risk(float("nan")) == (0, 1, 2, 3)  # nothing is known of any
    assert few.accuracy == 1


def test_the_interval_is_that_of_paired_differences() -> None:
    """Of 1,000 images 12 lost and 2 gained: McNemar's counts; standard error by hand."""
    differences = np.array([-1] * 12 + [1] * 2 + [0] * 986)
    low, high = _interval(differences)
    deviation = (14 / 1000 - 0.01**2) ** 0.5
    assert (low + high) / 2 == pytest.approx(-0.01)
    assert (high - low) / 2 == pytest.approx(1.96 * deviation / 1000**0.5)


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
    found = Comparison("CPUExecutionProvider", True, 100, 1e-5, 1e-5, 1e-5, 2e-5, 100, 0.9, (0.0, 0.0), ())
    assert replace(found, **change).holds is holds  # type: ignore[arg-type]  # the changed fields are floats
