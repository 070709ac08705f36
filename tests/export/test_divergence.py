"""The first difference between a network and its export is attributed to the module that causes it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export.convert import OPSET
from netkit.export.parity.divergence import first_divergence
from netkit.nets.build import build
from tests.support.networks import WrongInExport


@pytest.mark.parametrize(
    ("arch", "module"),
    [
        ("inception", "inception1.branch5x5"),
        ("residual", "block1.conv2"),
        ("preact", "stage2.0.shortcut"),
        pytest.param("preact", "stage2", marks=pytest.mark.slow),
        pytest.param("densenet", "transition", marks=pytest.mark.slow),
        pytest.param("densenet", "linear", marks=pytest.mark.slow),
    ],
)
def test_divergence_names_the_first_module_whose_export_is_wrong(
    card: ModelCard, digits_data: ArrayDataSet, arch: str, module: str
) -> None:
    torch.manual_seed(0)
    net = build(replace(card, arch=arch)).eval()
    net.set_submodule(module, WrongInExport(net.get_submodule(module)))
    divergence = first_divergence(net, card, digits_data.test_images, opset=OPSET)
    assert divergence is not None
    assert (divergence.module, divergence.operator) == (module, "Mul") and divergence.node
    largest = max(map(abs, divergence.expected))
    assert divergence.error == pytest.approx(largest / 1000, rel=0.05)
    for expected, actual in zip(divergence.expected, divergence.actual, strict=True):
        assert actual == pytest.approx(expected * 1.001, abs=largest * 1e-5)
    assert str(divergence).startswith(
        f"the first difference is in module '{module}' (ONNX node '{divergence.node}', Mul, output "
        f"'{divergence.value}'): largest absolute error {divergence.error:.2g}, values "
    )


def test_correct_export_has_no_divergence(card: ModelCard, digits_data: ArrayDataSet) -> None:
    torch.manual_seed(0)
    assert first_divergence(build(card).eval(), card, digits_data.test_images, opset=OPSET) is None


def test_in_place_modules_do_not_hide_a_difference(card: ModelCard, digits_data: ArrayDataSet) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(26 * 26 * 4, 10)
    ).eval()
    assert first_divergence(net, card, digits_data.test_images, opset=OPSET) is None
    net.set_submodule("2", WrongInExport(nn.ReLU(inplace=True)))
    divergence = first_divergence(net, card, digits_data.test_images, opset=OPSET)
    assert divergence is not None and divergence.module == "2"


def test_error_outside_all_submodules_is_attributed_to_the_network(card: ModelCard, digits_data: ArrayDataSet) -> None:
    torch.manual_seed(0)
    divergence = first_divergence(WrongInExport(build(card)).eval(), card, digits_data.test_images, opset=OPSET)
    assert divergence is not None and divergence.module == "model.net"
