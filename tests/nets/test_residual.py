"""ResidualNet, against the same network written with torch.nn.functional on weights taken by position."""

import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.nets.residual import ResidualNet


def block(x: Tensor, w: list[Tensor]) -> Tensor:
    return F.relu(x + F.conv2d(F.relu(F.conv2d(x, w[0], w[1], padding=1)), w[2], w[3], padding=1))


def test_network_equals_its_functional_form() -> None:
    torch.manual_seed(0)
    net = ResidualNet().eval()
    w = list(net.state_dict().values())
    x = torch.randn(3, 1, 28, 28)
    y = block(F.relu(F.max_pool2d(F.conv2d(x, w[0], w[1]), 2)), w[2:6])
    y = block(F.relu(F.max_pool2d(F.conv2d(y, w[6], w[7]), 2)), w[8:12])
    with torch.no_grad():
        torch.testing.assert_close(net(x), F.linear(y.flatten(1), w[12], w[13]))
    assert [tuple(w[i].shape) for i in (0, 6, 12)] == [(16, 1, 5, 5), (32, 16, 5, 5), (10, 512)]
