"""Where a net and its export part: the report names the module that was wrong on purpose."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.data.dataset import HeldDataSet
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
        ("preact", "stage2"),
        ("densenet", "transition"),
        ("densenet", "linear"),
    ],
)
def test_the_first_module_whose_export_is_wrong_is_named(
    card: ModelCard, digits_data: HeldDataSet, arch: str, module: str
) -> None:
    torch.manual_seed(0)
    net = build(replace(card, arch=arch)).eval()
    net.set_submodule(module, WrongInExport(net.get_submodule(module)))
    found = first_divergence(net, card, digits_data.test_images, opset=OPSET)
    assert found is not None
    assert (found.module, found.operator) == (module, "Mul") and found.node
    largest = max(map(abs, found.wanted))
    assert found.error == pytest.approx(largest / 1000, rel=0.05)
    for wanted, seen in zip(found.wanted, found.found, strict=True):
        assert seen == pytest.approx(wanted * 1.001, abs=largest * 1e-5)
    assert str(found).startswith(
        f"they part in module '{module}' (ONNX node '{found.node}', Mul, which gives '{found.value}'): outputs differ"
    )


def test_a_faithful_export_has_no_such_module(card: ModelCard, digits_data: HeldDataSet) -> None:
    torch.manual_seed(0)
    assert first_divergence(build(card).eval(), card, digits_data.test_images, opset=OPSET) is None


def test_modules_that_compute_in_place_hide_nothing(card: ModelCard, digits_data: HeldDataSet) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(26 * 26 * 4, 10)
    ).eval()
    assert first_divergence(net, card, digits_data.test_images, opset=OPSET) is None
    net.set_submodule("2", WrongInExport(nn.ReLU(inplace=True)))
    found = first_divergence(net, card, digits_data.test_images, opset=OPSET)
    assert found is not None and found.module == "2"


def test_what_is_wrong_outside_of_all_modules_of_the_net_is_the_nets_own(
    card: ModelCard, digits_data: HeldDataSet
) -> None:
    torch.manual_seed(0)
    found = first_divergence(WrongInExport(build(card)).eval(), card, digits_data.test_images, opset=OPSET)
    assert found is not None and found.module == "model.net"
