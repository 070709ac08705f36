"""A session runs where it says that it runs, and answers as ONNX Runtime alone does."""

import logging
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto
from test_model import SAVED, linear_model, weights

from infer import model as models
from infer.model import Model
from infer.session import CPU, CUDA, Session, open_session
from nets.card import ModelCard
from nets.data.dataset import DataSet
from nets.errors import DeviceError, ModelError
from nets.machine import missing_cuda_driver, usable_cores

NO_DRIVER = missing_cuda_driver()
without_driver = pytest.mark.skipif(NO_DRIVER is None, reason="needs a machine without a CUDA driver")


@pytest.fixture(scope="module")
def linear(card: ModelCard) -> Model:
    return models.check(linear_model(card).SerializeToString(), "linear.onnx")


def test_rows_of_a_trained_model_are_those_of_plain_onnx_runtime(session: Session, digits_data: DataSet) -> None:
    plain = ort.InferenceSession(session.model.content, providers=[CPU])
    for images in (digits_data.test_images[:1], digits_data.test_images):
        logits, probabilities = session.run(images)
        expected = plain.run(["logits", "probabilities"], {"images": images})
        assert logits.shape == (len(images), 10) and logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[0], rtol=1e-5, atol=1e-5)  # the thread counts differ
        np.testing.assert_allclose(probabilities, expected[1], rtol=1e-5, atol=1e-5)


def test_logits_and_probabilities_of_a_linear_model_are_those_that_numpy_computes(
    linear: Model, card: ModelCard
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (50, 1, 28, 28), dtype=np.uint8)
    logits, probabilities = open_session(linear, device="cpu").run(images)
    truth = images.reshape(50, -1).astype(np.float64) @ weights(card)
    np.testing.assert_allclose(logits, truth, atol=1e-4)
    np.testing.assert_allclose(probabilities, np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True), atol=1e-5)


def test_the_provider_recorded_is_the_one_that_the_open_session_reports(linear: Model) -> None:
    for device in ("cpu", "auto"):
        session = open_session(linear, device=device)
        assert session.provider == session._runtime.get_providers()[0]
    assert open_session(linear, device="cpu").provider == "CPUExecutionProvider"


@pytest.mark.parametrize(("threads", "used"), [(1, 1), (3, 3), (None, usable_cores())])
def test_threads_are_those_asked_for_or_all_cores_of_this_process(
    linear: Model, threads: int | None, used: int
) -> None:
    session = open_session(linear, device="cpu", threads=threads)
    assert session._runtime.get_session_options().intra_op_num_threads == used


@without_driver
def test_cuda_without_a_driver_fails_with_the_cause(linear: Model) -> None:
    with pytest.raises(DeviceError) as caught:
        open_session(linear, device="cuda")
    assert str(caught.value) == NO_DRIVER == "no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded)"


@without_driver
@pytest.mark.parametrize(("device", "lines"), [("auto", [f"running on the CPU: {NO_DRIVER}"]), ("cpu", [])])
def test_auto_names_the_cause_in_one_line_and_runs_on_the_cpu(
    linear: Model, caplog: pytest.LogCaptureFixture, device: str, lines: list[str]
) -> None:
    with caplog.at_level(logging.INFO):
        session = open_session(linear, device=device)
    assert (caplog.messages, session.provider) == (lines, CPU)


@without_driver
def test_a_driver_without_usable_cuda_libraries_is_no_silent_fall_to_the_cpu(
    linear: Model, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As if there were a driver: ONNX Runtime then tries for CUDA, cannot have it, and opens on the CPU."""
    monkeypatch.setattr("infer.session.missing_cuda_driver", lambda: None)
    with pytest.raises(DeviceError, match=r"^onnxruntime \d+\.\d+\.\d+ .*netkit's extra \[gpu\]"):
        open_session(linear, device="cuda")
    assert open_session(linear, device="auto").provider == CPU
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: setattr(m.graph.node[3], "op_type", "Softmaxx"), "Softmaxx"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "opset"),
        (lambda m: setattr(m, "ir_version", 99), "IR version"),
        (lambda m: m.graph.initializer.pop(), "weights"),
    ],
)
def test_a_model_that_onnx_runtime_refuses_is_named_with_the_cause_and_nothing_else_is_printed(
    card: ModelCard, capfd: pytest.CaptureFixture[str], spoil: Callable[[ModelProto], None], says: str
) -> None:
    proto = linear_model(card)
    spoil(proto)
    with pytest.raises(ModelError) as caught:
        open_session(models.check(proto.SerializeToString(), "bad.onnx"), device="cpu")
    assert str(caught.value).startswith(f"bad.onnx: ONNX Runtime {ort.__version__} refuses it: ")
    assert says in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_onnx_runtime_would_only_warn_of_is_not_printed(
    card: ModelCard, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = linear_model(card)
    proto.graph.initializer.append(SAVED)  # which no node uses
    open_session(models.check(proto.SerializeToString(), "unused.onnx"), device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(NO_DRIVER is not None, reason=str(NO_DRIVER))
def test_cuda_gives_the_logits_that_the_cpu_gives(session: Session, digits_data: DataSet) -> None:
    on_cuda = open_session(session.model, device="cuda")
    assert on_cuda.provider == CUDA
    logits, probabilities = on_cuda.run(digits_data.test_images)
    expected = session.run(digits_data.test_images)
    np.testing.assert_allclose(logits, expected[0], atol=1e-3)
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-3)
