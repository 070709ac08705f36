"""The exporter writes a file only if it passes the parity check; otherwise nothing in the folder changes."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netkit.core.errors import ParityError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export.exporter import export
from netkit.infer.model import onnx_file, verify
from netkit.infer.model.certificate import Certificate
from netkit.nets.build import build
from netkit.nets.training import checkpoint
from tests.support.networks import WrongInExport


def export_fp32(net: nn.Module, path: Path, card: ModelCard, data: ArrayDataSet) -> Certificate:
    return export(net, {"fp32": path}, card=card, data=data, max_drop=0)["fp32"]


def test_correct_export_is_written_with_its_certificate(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    path = tmp_path / "model.onnx"
    net = build(card).eval()
    certificate = export_fp32(net, path, card, digits_data)
    assert all(comparison.holds for comparison in certificate.comparisons)
    written = onnx_file.read(path)
    assert written.card == card
    assert verify.read_self_test(written).certificate == certificate
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "parity.md"]  # no external data, no temporary file
    checkpoint.save(tmp_path / "model.safetensors", net, card)
    assert certificate.weights_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_parity_md_has_a_row_for_each_comparison(tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet) -> None:
    certificate = export_fp32(build(card).eval(), tmp_path / "my.onnx", card, digits_data)
    page = (tmp_path / "parity.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| CPU")]
    assert [row.split(" | ")[1:3] for row in rows] == [
        [optimised, f"{comparison.error:.2g}"]
        for optimised, comparison in zip(("yes", "no"), certificate.comparisons, strict=True)
    ]
    assert "## my.onnx" in page and certificate.graph_sha256 in page
    assert "on 355 test, 256 noise, 1 black, 1 white, 784 single-pixel images, in batches of 1, 2, 3, 7, 64" in page
    assert [row.split(" | ")[5:7] for row in rows] == [["355 of 355", "0 of 355"]] * 2
    assert page.count("within that margin: none.") == 1


def test_failed_parity_check_writes_no_file(tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet) -> None:
    expected = (
        r"not written: the ONNX model differs from PyTorch: largest logit error .*allowed: .*; "
        r"the first difference is in module 'model.net' \(.* in ONNX$"
    )
    with pytest.raises(ParityError, match=expected):
        export_fp32(WrongInExport(build(card)).eval(), tmp_path / "model.onnx", card, digits_data)
    assert not list(tmp_path.iterdir())


def test_failed_parity_check_leaves_existing_files_unchanged(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    before = {tmp_path / name: f"an earlier {name}".encode() for name in ("model.onnx", "parity.md")}
    for file, content in before.items():
        file.write_bytes(content)
    with pytest.raises(ParityError, match=r"not written: .*; the existing file is unchanged$"):
        export_fp32(WrongInExport(build(card)).eval(), tmp_path / "model.onnx", card, digits_data)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_divergence_is_searched_on_the_images_with_the_largest_errors(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    class WrongOnWhite(nn.Module):
        """Differs in the export only for nearly white images; the synthetic white image is one of the last."""

        def __init__(self) -> None:
            super().__init__()
            self.net = build(card)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            whiteness = (x.mean(dim=(1, 2, 3)) - (0.9 - card.mean[0]) / card.std[0]).relu().unsqueeze(1)
            return logits * (1 + whiteness) if torch.compiler.is_exporting() else logits

    with pytest.raises(ParityError, match=r"first difference is in module 'model.net' \(ONNX node '\w+', Mul, output "):
        export_fp32(WrongOnWhite().eval(), tmp_path / "model.onnx", card, digits_data)


@pytest.mark.parametrize("name", ["none/model.onnx", "model.safetensors", "model", "folder.onnx"])
def test_unwritable_path_is_rejected_before_the_conversion(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet, name: str
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "model.safetensors").write_text("the weights")
    with pytest.raises(UsageError, match=name):
        export_fp32(WrongInExport(build(card)), tmp_path / name, card, digits_data)
    assert (tmp_path / "model.safetensors").read_text() == "the weights"
