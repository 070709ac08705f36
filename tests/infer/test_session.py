"""A session reports the provider it runs on, and gives the outputs of plain ONNX Runtime."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, load_model

from netkit.core.errors import DeviceError, ModelError
from netkit.core.model_card import ModelCard
from netkit.core.system import missing_cuda_driver, usable_cores
from netkit.data.dataset import ArrayDataSet
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.providers import CPU, CUDA
from netkit.infer.runtime.session import Session, open_session
from tests.support.onnx_models import ZEROS, add_nodes, linear_model, weights

NO_DRIVER = missing_cuda_driver()
without_driver = pytest.mark.skipif(NO_DRIVER is None, reason="needs a machine without a CUDA driver")


@pytest.fixture(scope="module")
def linear(card: ModelCard) -> Model:
    return onnx_file.check(linear_model(card).SerializeToString(), "linear.onnx")


def test_outputs_equal_those_of_plain_onnx_runtime(session: Session, digits_data: ArrayDataSet) -> None:
    plain = ort.InferenceSession(session.model.content, providers=[CPU])
    for images in (digits_data.test_images[:1], digits_data.test_images):
        logits, probabilities = session.run(images)
        expected = plain.run(["logits", "probabilities"], {"images": images})
        assert logits.shape == (len(images), 10) and logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[0], rtol=1e-5, atol=1e-5)  # another number of threads
        np.testing.assert_allclose(probabilities, expected[1], rtol=1e-5, atol=1e-5)


def test_logits_and_probabilities_of_a_linear_model_equal_those_of_numpy(linear: Model, card: ModelCard) -> None:
    images = np.random.default_rng(1).integers(0, 256, (50, 1, 28, 28), dtype=np.uint8)
    logits, probabilities = open_session(linear, device="cpu").run(images)
    expected = images.reshape(50, -1).astype(np.float64) @ weights(card)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(probabilities, np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True), atol=1e-5)


def test_the_provider_is_the_one_that_onnx_runtime_reports(linear: Model) -> None:
    for device in ("cpu", "auto"):
        session = open_session(linear, device=device)
        assert session.provider == session.runtime.get_providers()[0]
    assert open_session(linear, device="cpu").provider == "CPUExecutionProvider"


@pytest.mark.parametrize(("threads", "used"), [(1, 1), (None, usable_cores()), (100_000, usable_cores())])
def test_the_number_of_threads_is_limited_to_the_usable_cores(linear: Model, threads: int | None, used: int) -> None:
    session = open_session(linear, device="cpu", threads=threads)
    assert session.runtime.get_session_options().intra_op_num_threads == used


@without_driver
def test_cuda_without_a_driver_fails_with_the_cause(linear: Model) -> None:
    with pytest.raises(DeviceError) as caught:
        open_session(linear, device="cuda")
    assert NO_DRIVER == "no NVIDIA driver on this machine"
    assert str(caught.value) == f"--device cuda: {NO_DRIVER}; pass --device cpu to use the CPU"


@without_driver
@pytest.mark.parametrize(("device", "lines"), [("auto", [f"running on the CPU ({NO_DRIVER})"]), ("cpu", [])])
def test_auto_logs_the_cause_in_one_line_and_runs_on_the_cpu(
    linear: Model, caplog: pytest.LogCaptureFixture, device: str, lines: list[str]
) -> None:
    with caplog.at_level(logging.INFO):
        session = open_session(linear, device=device)
    assert (caplog.messages, session.provider) == (lines, CPU)


@without_driver
def test_missing_cuda_libraries_raise_a_device_error_instead_of_a_silent_fallback(
    linear: Model, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The test pretends that there is a driver: ONNX Runtime then fails to load CUDA and opens on the CPU."""
    monkeypatch.setattr("netkit.infer.runtime.session.missing_cuda_driver", lambda: None)
    with pytest.raises(
        DeviceError, match=r"^--device cuda: onnxruntime \d+\.\d+\.\d+ .*; 'netkit doctor' prints how to install"
    ):
        open_session(linear, device="cuda")
    assert open_session(linear, device="auto").provider == CPU
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: setattr(m, "ir_version", 99), "IR version"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", m.graph.initializer[0].raw_data[4:]), "size"),
    ],
)
def test_a_model_that_onnx_runtime_rejects_raises_an_error_with_the_cause_and_prints_nothing(
    card: ModelCard, capfd: pytest.CaptureFixture[str], damage: Callable[[ModelProto], None], message: str
) -> None:
    proto = linear_model(card)
    damage(proto)
    with pytest.raises(ModelError) as caught:
        open_session(onnx_file.check(proto.SerializeToString(), "bad.onnx"), device="cpu")
    assert str(caught.value).startswith(f"bad.onnx: ONNX Runtime {ort.__version__} rejects it: ")
    assert message in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_warnings_of_onnx_runtime_are_not_printed(card: ModelCard, capfd: pytest.CaptureFixture[str]) -> None:
    proto = linear_model(card)
    proto.graph.initializer.append(ZEROS)  # unused
    open_session(onnx_file.check(proto.SerializeToString(), "unused.onnx"), device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(NO_DRIVER is not None, reason=str(NO_DRIVER))
def test_cuda_gives_the_outputs_of_the_cpu_also_with_padding_and_cuda_graphs(
    session: Session, digits_data: ArrayDataSet
) -> None:
    on_cuda = open_session(session.model, device="cuda")
    assert on_cuda.provider == CUDA
    images = digits_data.test_images
    for count, size in [(355, None), (64, 64), (64, 64), (64, 64), (35, 64), (355, 64), (64, 64), (1, 400)]:
        logits, probabilities = on_cuda.run(images[:count], size=size)
        expected = session.run(images[:count])
        np.testing.assert_allclose(logits, expected[0], atol=1e-3)
        np.testing.assert_allclose(probabilities, expected[1], atol=1e-3)


def test_an_error_of_onnx_runtime_is_reported_without_its_source_code_locations(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.ir_version = 99
    with pytest.raises(ModelError) as caught:
        open_session(onnx_file.check(proto.SerializeToString(), "new.onnx"), device="cpu")
    cause = str(caught.value).partition("rejects it: ")[2]
    assert cause.startswith("Unsupported model IR version: 99, max supported IR version: ") and "\n" not in cause


@pytest.mark.parametrize("node", ["logits = Reshape (unshaped, shape)", "logits = Slice (unshaped, start, end)"])
def test_outputs_of_another_shape_than_in_the_card_raise_a_model_error(card: ModelCard, node: str) -> None:
    """Reshaping the logits of two images, 10 each, to one row fails; slicing them gives one row."""
    proto = linear_model(card)
    proto.graph.node[2].output[0] = "unshaped"
    softmax = proto.graph.node.pop()
    add_nodes(proto, node, shape=[1, 10], start=[0], end=[1]).graph.node.append(softmax)
    session = open_session(onnx_file.check(proto.SerializeToString(), "odd.onnx"), device="cpu")
    message = r"odd.onnx: (returns logits \(1, 10\)|ONNX Runtime .* fails: .* cannot be reshaped)"
    with pytest.raises(ModelError, match=message):
        session.run(np.zeros((2, 1, 28, 28), np.uint8))


def test_onnx_runtime_writes_no_telemetry(tmp_path: Path) -> None:
    """It would write an ID and a description of the machine to the home folder."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    environment = {**kept, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import netkit.infer.runtime.session"], env=environment, check=True)
    assert not any(tmp_path.iterdir())


def test_a_file_that_starts_like_ort_format_is_run_as_the_onnx_model_that_was_checked(
    linear: Model,
) -> None:
    """Protobuf skips the eleven bytes as unknown fields; ONNX Runtime would read the file as its own ORT format."""
    both = onnx_file.check(b"\x48\x00\x49\x00ORTM\x00\x00\x00" + linear.content, "both.onnx")
    assert both.graph_sha256 == linear.graph_sha256
    images = np.random.default_rng(1).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(
        open_session(both, device="cpu").run(images)[0], open_session(linear, device="cpu").run(images)[0]
    )


DAMAGED = """
import random, sys
from pathlib import Path
import numpy as np
from tests.support.damage import damaged
from netkit.infer.model import onnx_file
from netkit.infer.runtime.session import open_session
from netkit.core.errors import NetkitError

content, rng, successes = Path(sys.argv[1]).read_bytes(), random.Random(0), 0
for _ in range(int(sys.argv[2])):
    try:
        session = open_session(onnx_file.check(damaged(content, rng), "m.onnx"), device="cpu", threads=1)
        successes += len(session.run(np.zeros((3, 1, 28, 28), np.uint8))[0]) == 3
    except NetkitError:
        pass
print(successes)
"""


@pytest.mark.parametrize("files", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_damaged_models_run_without_verification_raise_an_error_or_give_outputs(
    workspace: Path, tmp_path: Path, files: int
) -> None:
    """They run in a separate process, so that a crash does not end the tests. Only the graph is damaged."""
    proto = load_model(workspace / "runs/residual/model.onnx", load_external_data=False)
    for entry in proto.metadata_props[1:]:  # the card stays
        proto.metadata_props.remove(entry)
    for tensor in proto.graph.initializer:  # zeros the weights: any value is valid there
        if len(tensor.raw_data) > 400:
            tensor.raw_data = bytes(len(tensor.raw_data))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED, tmp_path / "m.onnx", str(files)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert files / 2 < int(done.stdout) < files
