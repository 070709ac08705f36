"""The converted model has the documented inputs, outputs and metadata, and computes the same as PyTorch."""

import ast
import copy
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torchvision
from torch import nn

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.export.convert import OPSETS, convert
from netkit.export.parity.reference import error_bound
from netkit.infer.model import onnx_file, operators
from netkit.infer.model.onnx_file import Model
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.normalize import FromPixels
from tests.support.export_networks import Clips, WithLayer


@pytest.fixture(scope="module")
def proto(card: ModelCard) -> onnx.ModelProto:
    torch.manual_seed(0)
    return onnx.load_model_from_string(convert(build(card).eval(), card))


def test_model_takes_pixels_and_returns_logits_and_probabilities(proto: onnx.ModelProto) -> None:
    runtime = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs, outputs = runtime.get_inputs(), runtime.get_outputs()
    assert [(i.name, i.type, i.shape) for i in inputs] == [("images", "tensor(uint8)", ["batch", 1, 28, 28])]
    assert [(o.name, o.type, o.shape) for o in outputs] == [
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64, 1000])
def test_every_batch_size_gives_the_same_logits(proto: onnx.ModelProto, batch_size: int) -> None:
    runtime = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (1000, 1, 28, 28), np.uint8)
    all_logits, _ = runtime.run(None, {"images": images})
    logits, _ = runtime.run(None, {"images": images[:batch_size]})
    np.testing.assert_allclose(logits, all_logits[:batch_size], atol=1e-5)


def test_opset_and_ir_version_are_pinned(proto: onnx.ModelProto, card: ModelCard) -> None:
    assert proto.ir_version == 10
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    other = onnx.load_model_from_string(convert(build(card).eval(), card, opset=18))
    assert other.opset_import[0].version == 18


@pytest.mark.parametrize("opset", [17, 24])
def test_unsupported_opset_is_rejected(card: ModelCard, opset: int) -> None:
    with pytest.raises(UsageError, match=f"--opset {opset}: netkit exports opsets 18 to 23"):
        convert(build(card), card, opset=opset)


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def test_model_card_round_trips_through_the_metadata(proto: onnx.ModelProto, card: ModelCard) -> None:
    assert ModelCard.from_json(metadata_of(proto)["netkit.card"]) == card


@pytest.mark.parametrize(("channels", "pixel_format"), [(1, "Gray8"), (3, "Rgb8")])
def test_metadata_describes_the_pixels_as_onnx_defines_it(card: ModelCard, channels: int, pixel_format: str) -> None:
    card = replace(card, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    metadata = metadata_of(onnx.load_model_from_string(convert(build(card).eval(), card)))
    assert {key: value for key, value in metadata.items() if key.startswith("Image.")} == {
        "Image.BitmapPixelFormat": pixel_format,
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
    }
    assert metadata.keys() == {"netkit.card", "names", *(key for key in metadata if key.startswith("Image."))}


def test_names_in_the_metadata_are_both_json_and_a_python_literal(card: ModelCard) -> None:
    labels = ("zero", 'it\'s "one"', "grün", "\U0001f431", "back\\slash", "two\nlines\u2028", "\x00\x7f")
    card = replace(card, labels=labels)
    names = metadata_of(onnx.load_model_from_string(convert(build(card).eval(), card)))["names"]
    expected = {str(index): label for index, label in enumerate(labels)}
    assert json.loads(names) == ast.literal_eval(names) == expected


def test_the_reader_takes_every_opset_that_the_exporter_writes() -> None:
    assert operators.OPSETS == OPSETS


def test_model_contains_no_paths_of_the_exporting_machine(proto: onnx.ModelProto) -> None:
    content = proto.SerializeToString()
    for trace in (b"pkg.torch", b"stack_trace", b".py", b"site-packages"):
        assert trace not in content


def test_two_exports_of_the_same_weights_are_identical(card: ModelCard) -> None:
    net = build(card).eval()
    assert convert(net, card) == convert(net, card)


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=pytest.mark.slow if arch == "densenet" else ()) for arch in ARCHITECTURES]
)
def test_every_network_computes_the_same_in_onnx_as_in_pytorch(card: ModelCard, arch: str) -> None:
    torch.manual_seed(0)
    card = replace(card, arch=arch)
    net = build(card).eval()
    images = np.random.default_rng(2).integers(0, 256, (5, 1, 28, 28), np.uint8)
    with torch.no_grad():
        expected = FromPixels(net, card)(torch.from_numpy(images))
    runtime = ort.InferenceSession(convert(net, card), providers=["CPUExecutionProvider"])
    logits, probabilities = runtime.run(None, {"images": images})
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=1e-6)


def test_assignments_by_a_mask_give_the_same_logits_as_in_pytorch(card: ModelCard) -> None:
    torch.manual_seed(0)
    net = Clips(1, 10, (28, 28)).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), np.uint8)
    with torch.no_grad():
        expected = FromPixels(net, card)(torch.from_numpy(images)).numpy()
    logits, _ = ort.InferenceSession(convert(net, card)).run(None, {"images": images})
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(8), nn.GroupNorm(8, 8)])
def test_norms_of_one_image_are_as_exact_as_in_pytorch(card: ModelCard, norm: nn.Module) -> None:
    torch.manual_seed(0)
    net = WithLayer(nn.Sequential(norm, nn.ReLU()), 1, 10, (28, 28)).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (100, 1, 1, 1)) + rng.integers(0, 2, (100, 1, 28, 28))  # pixels differ by one
    pixels = torch.from_numpy(images.astype(np.uint8))
    with torch.no_grad():
        float32, float64 = FromPixels(net, card)(pixels), FromPixels(copy.deepcopy(net), card).double()(pixels)
    runtime = ort.InferenceSession(convert(net, card), providers=["CPUExecutionProvider"])
    logits, _ = runtime.run(None, {"images": pixels.numpy()})
    error, torch_error = (np.abs(values - float64.numpy()).max() for values in (logits, float32.numpy()))
    assert error <= error_bound(torch_error, float64.numpy())


def test_networks_for_color_and_non_square_images_can_be_converted(card: ModelCard) -> None:
    color_card = replace(card, channels=3, height=20, width=36, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    proto = onnx.load_model_from_string(convert(build(color_card).eval(), color_card))
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[1:]] == [3, 20, 36]


def test_exported_file_is_valid_onnx(model: Model) -> None:
    onnx.checker.check_model(model.content, full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["convnext_tiny", "efficientnet_b0", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5"],
)
def test_the_reader_takes_torchvision_classifiers(card: ModelCard, name: str) -> None:
    card = replace(card, arch=f"torchvision/{name}", channels=3, height=64, width=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    net = torchvision.models.get_model(name, weights=None, num_classes=10).eval()
    assert onnx_file.check(convert(net, card), "m.onnx").card == card
