"""Publishing: a file with its final name has passed parity, whatever went wrong before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.publish import export
from infer import model as models
from nets.build import build
from nets.card import ModelCard
from nets.data.dataset import DataSet
from nets.errors import ParityError, UsageError


class OffInExport(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits + 1e-3 if torch.compiler.is_exporting() else logits


def test_a_faithful_net_becomes_a_file_that_can_be_read(tmp_path: Path, card: ModelCard, digits_data: DataSet) -> None:
    path = tmp_path / "model.onnx"
    parity = export(build(card).eval(), path, card=card, images_u8=digits_data.test_images)
    assert parity.holds
    assert models.read(path).card == card
    assert list(tmp_path.iterdir()) == [path]  # one file: no .data, nothing temporary


@pytest.mark.parametrize("earlier", [False, True])
def test_a_mismatch_leaves_no_file(tmp_path: Path, card: ModelCard, digits_data: DataSet, earlier: bool) -> None:
    path = tmp_path / "model.onnx"
    if earlier:
        path.write_bytes(b"an earlier model, of other weights")
    with pytest.raises(ParityError, match=r"not written: .* NOT within the bound"):
        export(OffInExport(build(card)).eval(), path, card=card, images_u8=digits_data.test_images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["none/model.onnx", "model.safetensors", "model", "folder.onnx"])
def test_a_place_where_no_model_can_be_written_is_refused_before_anything_is_converted(
    tmp_path: Path, card: ModelCard, name: str
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "model.safetensors").write_text("the weights")
    with pytest.raises(UsageError, match=name):
        export(OffInExport(build(card)), tmp_path / name, card=card, images_u8=np.zeros((0, 1, 28, 28), np.uint8))
    assert (tmp_path / "model.safetensors").read_text() == "the weights"
