"""InceptionNet, against the same network written with torch.nn.functional on weights taken by position."""

import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.nets.inception import InceptionNet


def inception_a(x: Tensor, w: list[Tensor]) -> Tensor:
    """InceptionA from 7 pairs of weight and bias in this order: 1x1; 1x1, 5x5; 1x1, 3x3, 3x3; 1x1 after pooling."""
    return torch.cat(
        [
            F.conv2d(x, w[0], w[1]),
            F.conv2d(F.conv2d(x, w[2], w[3]), w[4], w[5], padding=2),
            F.conv2d(F.conv2d(F.conv2d(x, w[6], w[7]), w[8], w[9], padding=1), w[10], w[11], padding=1),
            F.conv2d(F.avg_pool2d(x, 3, stride=1, padding=1), w[12], w[13]),
        ],
        dim=1,
    )


def test_network_equals_its_functional_form() -> None:
    torch.manual_seed(0)
    net = InceptionNet().eval()
    w = list(net.state_dict().values())
    x = torch.randn(3, 1, 28, 28)
    y = inception_a(F.relu(F.max_pool2d(F.conv2d(x, w[0], w[1]), 2)), w[2:16])
    assert y.shape == (3, 88, 12, 12)
    y = inception_a(F.relu(F.max_pool2d(F.conv2d(y, w[16], w[17]), 2)), w[18:32])
    with torch.no_grad():
        torch.testing.assert_close(net(x), F.linear(y.flatten(1), w[32], w[33]))
    assert [tuple(w[i].shape) for i in (0, 16, 32)] == [(10, 1, 5, 5), (20, 88, 5, 5), (10, 1408)]
