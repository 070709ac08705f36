"""The parity check passes a model that computes the same as PyTorch, and fails other models."""

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
from netkit.data.dataset import ArrayDataSet
from netkit.export.convert import convert
from netkit.export.parity.compare import compare, paired_interval, with_other_torch_error, worst_images
from netkit.export.parity.reference import Reference, compute_reference, float32_error
from netkit.infer.model import onnx_file
from netkit.infer.model.certificate import Comparison
from netkit.infer.runtime.session import Session, open_session
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels


def open_model(content: bytes, *, optimised: bool = True) -> Session:
    return open_session(onnx_file.check(content, "test.onnx"), device="cpu", optimised=optimised)


@pytest.fixture(scope="module")
def net(card: ModelCard) -> nn.Module:
    torch.manual_seed(0)
    return build(card).eval()


@pytest.fixture(scope="module")
def content(net: nn.Module, card: ModelCard) -> bytes:
    return convert(net, card)


@pytest.fixture(scope="module")
def reference(net: nn.Module, card: ModelCard, digits_data: ArrayDataSet) -> Reference:
    return compute_reference(net, card, digits_data.test_images, digits_data.test_labels)


@pytest.fixture(scope="module")
def torch_error(reference: Reference) -> float:
    return float32_error(reference, "cpu")


@pytest.mark.parametrize("optimised", [True, False])
def test_correct_export_passes_with_the_expected_statistics(
    reference: Reference, content: bytes, torch_error: float, optimised: bool
) -> None:
    result = compare(reference, open_model(content, optimised=optimised), optimised=optimised, torch_error=torch_error)
    assert result.holds
    assert (result.provider, result.optimised, result.test_images) == ("CPUExecutionProvider", optimised, 355)
    assert (result.agreeing, result.accuracy, result.interval) == (355, reference.accuracy, (-3 / 355, 3 / 355))
    assert 0 < result.error < 1e-5 and 0 < result.torch_error < 1e-5
    assert result.bound - 2 * torch_error == pytest.approx(1e-6, rel=1e-3)  # an untrained network's logits are below 1


def test_the_error_of_pytorch_without_onednn_raises_the_bound_on_the_cpu_only(
    reference: Reference, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compare(reference, open_model(content), optimised=True, torch_error=0)
    on_gpu = replace(before, provider="CUDAExecutionProvider")
    pixels = torch.from_numpy(reference.images_u8)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.no_grad():
        logits = FromPixels(reference.net, reference.card)(pixels).numpy()
    monkeypatch.undo()
    on_cpu, unchanged = with_other_torch_error([before, on_gpu], reference)
    assert on_cpu.torch_error == pytest.approx(np.abs(logits - reference.logits).max(), rel=0.5)
    assert on_cpu.bound == pytest.approx(before.bound + 2 * on_cpu.torch_error)
    assert unchanged == on_gpu
    assert next(with_other_torch_error([replace(before, torch_error=1)], reference)).torch_error == 1


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_model_with_one_changed_weight_fails(
    reference: Reference, content: bytes, torch_error: float, factor: float
) -> None:
    proto = onnx.load_model_from_string(content)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("conv2.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    result = compare(reference, open_model(proto.SerializeToString()), optimised=True, torch_error=torch_error)
    assert not result.holds
    assert "largest logit error" in str(result) and f"(allowed: {result.bound:.2g};" in str(result)


def test_text_names_the_probability_error_if_only_that_exceeds_the_bound(
    reference: Reference, content: bytes, torch_error: float
) -> None:
    passed = compare(reference, open_model(content), optimised=True, torch_error=torch_error)
    failed = replace(passed, probability_error=2 * passed.bound)
    assert f"largest probability error {2 * passed.bound:.2g} on the CPU (allowed: {passed.bound:.2g};" in str(failed)


def test_model_whose_outputs_depend_on_other_images_of_the_batch_fails(
    reference: Reference, net: nn.Module, card: ModelCard, torch_error: float
) -> None:
    class DependsOnBatch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net(x)
            return logits + logits.mean(dim=0, keepdim=True) * 1e-2

    session = open_model(convert(DependsOnBatch().eval(), card))
    assert not compare(reference, session, optimised=True, torch_error=torch_error).holds


def test_model_that_is_wrong_for_one_batch_size_or_for_shuffled_images_fails(
    reference: Reference, content: bytes, torch_error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patched session adds 1 to the logits of some batches, as a bug in ONNX Runtime might do."""
    session, run = open_model(content), Session.run
    full_batches = [reference.images_u8[start : start + 64] for start in range(0, len(reference.images_u8), 64)]

    def compare_wrong(*, when: Callable[[NDArray[np.uint8]], bool]) -> Comparison:
        def wrong_run(self: Session, images_u8: NDArray[np.uint8], **options: Any) -> tuple[Any, Any]:
            logits, probabilities = run(self, images_u8, **options)
            return logits + when(images_u8), probabilities

        monkeypatch.setattr(Session, "run", wrong_run)
        return compare(reference, session, optimised=True, torch_error=torch_error)

    for size in (1, 2, 3, 7, 64):
        assert not compare_wrong(when=lambda images, size=size: len(images) == size).holds  # type: ignore[misc]
    assert not compare_wrong(when=lambda images: len(images) == len(reference.labels) % 64).holds  # the last batch
    # only the shuffled run has batches of 64 that are not consecutive images
    assert not compare_wrong(
        when=lambda images: len(images) == 64 and not any(np.array_equal(images, batch) for batch in full_batches)
    ).holds
    assert compare_wrong(when=lambda images: False).holds


def test_worst_images_have_the_largest_errors_and_nan_comes_first(reference: Reference, content: bytes) -> None:
    logits = reference.logits.copy()
    logits[[5, 700]] += [[2.0], [1.0]]
    logits[9] = np.nan
    worst = worst_images(replace(reference, logits=logits), open_model(content), 3)
    np.testing.assert_array_equal(worst, reference.images_u8[[9, 5, 700]])


@pytest.mark.parametrize("optimised", [True, False])
def test_optimised_sets_the_graph_optimization_level_of_onnx_runtime(
    content: bytes, optimised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = []

    class RecordingSession(ort.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self, model: bytes, options: ort.SessionOptions, **kwargs: Any) -> None:
            levels.append(options.graph_optimization_level)
            super().__init__(model, options, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", RecordingSession)
    open_model(content, optimised=optimised)
    level = ort.GraphOptimizationLevel
    assert levels == [level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL]


def test_interval_is_computed_from_paired_differences() -> None:
    """Of 1,000 images, 12 become wrong and 2 become right; the standard error is computed by hand."""
    differences = np.array([-1] * 12 + [1] * 2 + [0] * 986)
    low, high = paired_interval(differences)
    deviation = (14 / 1000 - 0.01**2) ** 0.5
    assert (low + high) / 2 == pytest.approx(-0.01)
    assert (high - low) / 2 == pytest.approx(1.96 * deviation / 1000**0.5)


def test_interval_without_differences_follows_the_rule_of_three() -> None:
    assert paired_interval(np.zeros(1000, np.int64)) == (-0.003, 0.003)


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
def test_comparison_holds_only_within_its_bound(change: dict[str, float], holds: bool) -> None:
    comparison = Comparison("CPUExecutionProvider", True, 100, 1e-5, 1e-5, 1e-5, 2e-5, 100, 0.9, (0.0, 0.0), ())
    assert replace(comparison, **change).holds is holds  # type: ignore[arg-type]  # the changed fields are floats
