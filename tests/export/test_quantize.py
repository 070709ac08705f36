"""fp16 and int8 models are written only if they keep the accuracy, and are verified against their own logits."""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from netkit.core.errors import ModelError, ParityError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export import exporter, quantize
from netkit.infer.model import onnx_file, verify
from netkit.infer.model.certificate import Comparison
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.session import open_session
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint
from tests.support.commands import Netkit
from tests.support.export_networks import FloatConstant, IfOnValues, UserNetwork
from tests.support.networks import OneWideKernel, OutlierFeature, Transformer

REDUCED = ("fp16", "int8")


@pytest.fixture(scope="module")
def trained(workspace: Path) -> tuple[nn.Module, ModelCard]:
    return checkpoint.load(workspace / "runs/residual/model.safetensors")


def normalized(data: ArrayDataSet, card: ModelCard) -> torch.Tensor:
    return (torch.from_numpy(data.test_images).double() / 255 - card.mean[0]) / card.std[0]


def kernels(content: bytes) -> list[onnx.TensorProto]:
    """The weights of the model's convolutions."""
    return [tensor for tensor in onnx.load_model_from_string(content).graph.initializer if len(tensor.dims) == 4]


@pytest.mark.parametrize("precision", REDUCED)
def test_variant_is_written_with_its_accuracy_and_verifies(
    tmp_path: Path, trained: tuple[nn.Module, ModelCard], digits_data: ArrayDataSet, precision: str
) -> None:
    net, card = trained
    path = tmp_path / "model.onnx"
    certificate = exporter.export(net, {precision: path}, card=card, data=digits_data, max_drop=0.02)[precision]
    written = onnx_file.read(path)
    session = open_session(written, device="cpu")
    logits, _ = session.run(digits_data.test_images)
    with torch.no_grad():
        exact = copy.deepcopy(net).double()(normalized(digits_data, card)).numpy()
    labels, torch_labels = logits.argmax(axis=1), exact.argmax(axis=1)
    first = certificate.comparisons[0]
    assert certificate.precision == precision
    assert first.accuracy == (labels == digits_data.test_labels).mean()
    assert first.changed == (labels != torch_labels).sum()
    assert first.bound == first.error >= np.abs(logits - exact).max() - 1e-5
    assert first.interval[0] <= first.accuracy - certificate.torch_accuracy <= first.interval[1]
    not_at_risk = sorted(set(range(len(labels))) - set(certificate.at_risk))
    assert (labels[not_at_risk] == torch_labels[not_at_risk]).all()
    assert all(check.ok for check in verify.verify(written, device="cpu"))
    stored = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in kernels(written.content)}
    assert stored == ({"FLOAT16"} if precision == "fp16" else {"INT8", "FLOAT"})


def test_int8_weights_have_per_channel_scales_and_ranges_come_from_the_calibration_images(
    trained: tuple[nn.Module, ModelCard], digits_data: ArrayDataSet
) -> None:
    net, card = trained
    darker = digits_data.train_images // 4
    normal, dark = (
        onnx.load_model_from_string(quantize.to_int8(net, card, images))
        for images in (digits_data.train_images, darker)
    )
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in normal.graph.initializer}
    int8_weights = [tensor for tensor in normal.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    scale_names = {node.input[0]: node.input[1] for node in normal.graph.node if node.op_type == "DequantizeLinear"}
    assert int8_weights
    for weight in int8_weights:
        if len(weight.dims) == 4:
            scales = values[scale_names[weight.name]]
            assert scales.shape == (weight.dims[0],) and len(np.unique(scales)) > 1
            assert np.abs(values[weight.name].astype(int)).max() == 64  # two products with 255 fit in 16 bits
    ranges = [
        sum(float(numpy_helper.to_array(t)) for t in proto.graph.initializer if t.name.endswith("scale") and not t.dims)
        for proto in (normal, dark)
    ]
    assert ranges[1] < ranges[0]


def test_calibration_uses_training_images_only(
    tmp_path: Path, trained: tuple[nn.Module, ModelCard], digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration_images: list[Any] = []
    int8_candidates = quantize.int8_candidates

    def recording(net: nn.Module, card: ModelCard, images_u8: Any, **options: Any) -> Iterator[Model]:
        calibration_images.append(images_u8)
        return int8_candidates(net, card, images_u8, **options)

    monkeypatch.setattr(quantize, "int8_candidates", recording)
    net, card = trained
    exporter.export(net, {"int8": tmp_path / "m.onnx"}, card=card, data=digits_data, max_drop=0.02)
    assert len(calibration_images) == 1 and np.array_equal(calibration_images[0], digits_data.train_images)


@pytest.mark.parametrize(("options", "drop"), [((), 0.001), (("--max-drop", "2.5"), 0.025)])
def test_max_drop_option_is_in_percentage_points(
    netkit: Netkit, workspace: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], drop: float
) -> None:
    """The default is 0.1 points."""
    max_drops: list[float] = []

    def failing(*args: object, max_drop: float, **kwargs: object) -> NoReturn:
        max_drops.append(max_drop)
        raise ParityError("the drop exceeds --max-drop")

    monkeypatch.setattr(exporter, "export", failing)
    assert netkit("export", "--precision", "int8", *options, cwd=workspace).returncode == 1
    assert max_drops == [pytest.approx(drop)]


@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_variant_that_loses_too_much_accuracy_leaves_the_existing_file_unchanged(
    tmp_path: Path, trained: tuple[nn.Module, ModelCard], digits_data: ArrayDataSet, precision: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an earlier model")
    expected = r"model\.onnx: not written: accuracy on \d+ test images is .*; the existing file is unchanged$"
    with pytest.raises(ParityError, match=expected):
        exporter.export(trained[0], {precision: path}, card=trained[1], data=digits_data, max_drop=-1)
    assert path.read_bytes() == b"an earlier model"
    assert list(tmp_path.iterdir()) == [path]


def test_drop_of_exactly_max_drop_is_allowed() -> None:
    comparison = Comparison("CPUExecutionProvider", True, 10_000, 1.0, 0.1, 1e-6, 1.0, 9_990, 0.9946, (-0.002, 0.0), ())
    assert 0.9956 - 0.9946 > 0.001  # in floating point
    exporter.require_accuracy((comparison,), torch_accuracy=0.9956, max_drop=0.001)
    with pytest.raises(ParityError, match=r"the drop exceeds --max-drop of 0\.09 points$"):
        exporter.require_accuracy((comparison,), torch_accuracy=0.9956, max_drop=0.0009)


def test_variant_that_fails_leaves_the_fp32_model_and_its_report(
    tmp_path: Path, trained: tuple[nn.Module, ModelCard], digits_data: ArrayDataSet
) -> None:
    net, card = trained
    paths = {"fp32": tmp_path / "model.onnx", "int8": tmp_path / "model.int8.onnx"}
    with pytest.raises(ParityError, match=r"model\.int8\.onnx: not written"):
        exporter.export(net, paths, card=card, data=digits_data, max_drop=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "parity.md"]
    page = (tmp_path / "parity.md").read_text()
    assert "## model.onnx" in page and "int8" not in page


def labelled_by(net: nn.Module, card: ModelCard, data: ArrayDataSet) -> ArrayDataSet:
    """The data with the network's own predictions as labels. Shifts the logits so that they are of many classes."""
    model = FromPixels(net, card).eval()
    with torch.no_grad():
        net.head.bias -= model(torch.from_numpy(data.train_images)).mean(0)  # type: ignore[union-attr]
        labels = model(torch.from_numpy(data.test_images)).argmax(1).numpy()
    return replace(data, test_labels=labels)


@pytest.fixture(autouse=True)
def any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size alone decides whether int8 pays, so that the test does not depend on the speed of the machine."""
    monkeypatch.setattr(quantize, "MIN_SPEEDUP", float("inf"))
    monkeypatch.setattr(quantize, "MIN_SPEED_RATIO", 0)


def int8_shapes(path: Path) -> set[tuple[int, ...]]:
    return {tuple(t.dims) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims}


def test_int8_transformer_is_smaller_and_keeps_its_attention_in_float32(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net, path = Transformer(), tmp_path / "model.onnx"
    data = labelled_by(net, card, digits_data)
    certificate = exporter.export(net, {"int8": path}, card=card, data=data, max_drop=0.05)["int8"]
    assert certificate.torch_accuracy == 1 and certificate.comparisons[0].accuracy >= 0.95
    assert path.stat().st_size < 0.6 * sum(weight.nbytes for weight in net.parameters())
    assert int8_shapes(path) >= {(64, 192), (64, 64), (64, 256), (256, 64)}
    nodes = {output: node for node in onnx.load(path).graph.node for output in node.output}
    scores = next(node for node in nodes.values() if node.op_type == "Softmax").input[0]
    assert "DequantizeLinear" not in {nodes[name].op_type for name in nodes[scores].input}
    assert not [record for record in caplog.records if record.name.startswith("netkit")]


def test_int8_leaves_out_the_matrices_if_they_cost_accuracy(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net, path = OutlierFeature(), tmp_path / "model.onnx"
    data = labelled_by(net, card, digits_data)
    certificate = exporter.export(net, {"int8": path}, card=card, data=data, max_drop=0.15)["int8"]
    assert certificate.comparisons[0].accuracy >= 0.85
    assert (64, 64, 3, 3) in int8_shapes(path) and (64, 64) not in int8_shapes(path)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "netkit.export.exporter"]
    assert re.match(
        r"with int8 linear layers, accuracy on 355 test images is .*; exported with int8 convolutions only$", warning
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: UserNetwork(1, 10, (28, 28)),
            "int8 needs a convolution with at least 8 input channels or a matrix with at least 4,096",
        ),
        (
            OneWideKernel,
            r"its file is (0\.9|1\.0)\d times the size and runs at \d\.\d\d times the speed of float32 on this",
        ),
    ],
)
def test_int8_that_does_not_pay_is_not_written(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet, make: Callable[[], nn.Module], reason: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an earlier model")
    with pytest.raises(ParityError, match=rf"model\.onnx: not written: int8 does not pay: {reason}"):
        exporter.export(make().eval(), {"int8": path}, card=card, data=digits_data, max_drop=1)
    assert path.read_bytes() == b"an earlier model"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("network", "precision", "error"),
    [
        ("UserNetwork", "int8", "run/model.int8.onnx: not written: int8 does not pay"),
        ("FloatConstant", "fp16", "for float16, store constants with register_buffer"),
    ],
)
def test_the_fp32_model_is_printed_with_its_figures_if_the_next_variant_fails(
    netkit: Netkit, tmp_path: Path, network: str, precision: str, error: str
) -> None:
    arch = f"tests.support.export_networks:{network}"
    assert netkit("train", "--arch", arch, "--data", "digits", "--epochs", "1", "--out", "run").returncode == 0
    done = netkit("export", "--arch", arch, "--run", "run", "--variants", f"fp32,{precision}")
    assert done.returncode == 1 and not (tmp_path / f"run/model.{precision}.onnx").exists()
    assert error in done.stderr and "Traceback" not in done.stderr
    sentence, _, row = done.stdout.splitlines()
    assert sentence.startswith("run/model.onnx: matches PyTorch")
    model, precision, accuracy, changed, size, images_per_s = row.split()
    assert (model, precision, changed) == ("run/model.onnx", "fp32", "0") and accuracy.endswith("%")
    assert size == f"{(tmp_path / 'run/model.onnx').stat().st_size:,}" and int(images_per_s.replace(",", "")) > 0


@pytest.mark.slow
def test_several_precisions_give_one_table_and_one_report(netkit: Netkit, workspace: Path, tmp_path: Path) -> None:
    names = ["model.onnx", "model.fp16.onnx", "model.int8.onnx"]
    arguments = ("--run", workspace / "runs/residual", "--variants", "fp32,fp16,int8", "--max-drop", "2")
    done = netkit("export", *arguments)
    assert done.returncode == 0, done.stderr
    *sentences, head = done.stdout.splitlines()[:4]
    rows = done.stdout.splitlines()[4:]
    assert [Path(sentence.partition(":")[0]).name for sentence in sentences] == names
    columns = ["model", "precision", "accuracy", "labels changed", "bytes", "images/s on one core"]
    assert re.split(r"  +", head.strip()) == columns
    assert [Path(row.split()[0]).name for row in rows] == names
    page = (workspace / "runs/residual/parity.md").read_text()
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == sorted(names)
    for name in names:
        assert netkit("verify", workspace / "runs/residual" / name).returncode == 0
    for name in names[1:]:
        (workspace / "runs/residual" / name).unlink()


def test_float16_with_a_float32_constant_is_refused_with_the_reason(card: ModelCard) -> None:
    with pytest.raises(ModelError, match=r"^residual: its ONNX graph is not valid: .*; for float16, store constants"):
        quantize.to_fp16(FloatConstant(1, 10, (28, 28)), card, opset=20)


def test_a_network_that_cannot_be_exported_in_float32_either_gets_no_advice_about_float16(card: ModelCard) -> None:
    with pytest.raises(ModelError, match=r"^residual: .*torch\.where \(export_networks\.py, line \d+\)$"):
        quantize.to_fp16(IfOnValues(1, 10, (28, 28)), card, opset=20)
