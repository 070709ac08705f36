"""Networks whose layers share weights are exported."""

from dataclasses import replace
from pathlib import Path

import pytest

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export.exporter import export
from netkit.nets.build import build
from netkit.nets.training import checkpoint


@pytest.mark.parametrize("class_name", ["ModuleWithTwoNames", "TiedConvolutions", "TiedHeads", "LinearView"])
def test_a_network_with_tied_weights_is_exported_from_its_weights_file(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet, class_name: str
) -> None:
    card = replace(card, arch=f"tests.support.user_networks:{class_name}")
    checkpoint.save(tmp_path / "model.safetensors", build(card), card)
    net, _ = checkpoint.load(tmp_path / "model.safetensors", trusted=card.arch)
    data = replace(digits_data, test_images=digits_data.test_images[:64], test_labels=digits_data.test_labels[:64])
    certificate = export(net, {"fp32": tmp_path / "model.onnx"}, card=card, data=data, max_drop=0)["fp32"]
    assert certificate.comparisons and all(comparison.holds for comparison in certificate.comparisons)
