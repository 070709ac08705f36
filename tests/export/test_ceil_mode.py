"""Pools with ceil_mode whose last window would start in the padding are exported, also before a linear layer."""

import numpy as np
import pytest
import torch
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.export.convert import convert
from netkit.infer.model import onnx_file
from netkit.infer.runtime.session import open_session


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, stride=3, ceil_mode=True),
        nn.AvgPool2d(2, stride=3, ceil_mode=True),
        nn.AvgPool2d(2, stride=2, padding=1, ceil_mode=True),
        nn.MaxPool2d(2, stride=(3, 2), ceil_mode=True),  # ceil_mode has an effect on the width only
    ],
    ids=str,
)
def test_a_pool_that_leaves_out_its_last_window_computes_the_values_of_pytorch(
    card: ModelCard, pool: nn.Module
) -> None:
    maps = torch.zeros(1, 1, 27, 27)  # after the convolution
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 1, 2), pool, nn.Flatten(), nn.Linear(pool(maps).numel(), 10)).eval()
    images_u8 = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), np.uint8)
    logits, _ = open_session(onnx_file.check(convert(net, card), "m.onnx"), device="cpu").run(images_u8)
    with torch.no_grad():
        expected = net((torch.from_numpy(images_u8) / 255 - card.mean[0]) / card.std[0]).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
