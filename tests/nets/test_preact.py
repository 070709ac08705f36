"""PreActNet, against the same network written with torch.nn.functional on weights taken by position."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.preact import PreActBlock, PreActNet
from tests.support.networks import norm_relu, randomize_norms


def block(x: Tensor, w: list[Tensor], stride: int, training: bool) -> Tensor:
    """A block from 12 tensors: norm (5), 3x3, norm (5), 3x3; and optionally the shortcut's 1x1."""
    a = norm_relu(x, w[0:5], training)
    y = F.conv2d(a, w[5], stride=stride, padding=1)
    y = F.conv2d(norm_relu(y, w[6:11], training), w[11], padding=1)
    return y + (F.conv2d(a, w[12], stride=stride) if len(w) == 13 else x)


@pytest.mark.parametrize("training", [False, True])
def test_network_equals_its_functional_form(training: bool) -> None:
    torch.manual_seed(0)
    net = randomize_norms(PreActNet()).train(training)
    w = [values.clone() for values in net.state_dict().values()]
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    y = F.conv2d(x, w[0], padding=1)
    y = block(block(y, w[1:14], 2, training), w[14:26], 1, training)
    assert y.shape == (3, 32, 14, 14)
    y = block(block(y, w[26:39], 2, training), w[39:51], 1, training)
    assert y.shape == (3, 64, 7, 7)
    y = norm_relu(y, w[51:56], training).flatten(2).mean(2)
    with torch.no_grad():
        torch.testing.assert_close(net(x), F.linear(y, w[56], w[57]))
    assert [tuple(w[i].shape) for i in (0, 13, 38, 56)] == [(16, 1, 3, 3), (32, 16, 1, 1), (64, 32, 1, 1), (10, 64)]
    assert len(w) == 58


@pytest.mark.parametrize("training", [False, True])
def test_block_with_a_zero_last_convolution_is_the_identity(training: bool) -> None:
    torch.manual_seed(0)
    same = randomize_norms(PreActBlock(32, 32, stride=1)).train(training)
    nn.init.zeros_(same.get_parameter("conv2.weight"))
    x = torch.randn(2, 32, 9, 7, dtype=torch.float64, requires_grad=True)
    y = same(x)
    assert torch.equal(y, x)  # also for x below 0: the identity path has no activation
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


@pytest.mark.parametrize(("channels", "stride", "out"), [(16, 2, (32, 5, 4)), (16, 1, (32, 9, 7)), (32, 2, (32, 5, 4))])
def test_shortcut_of_a_changed_shape_is_a_convolution_of_the_activated_input(
    channels: int, stride: int, out: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    changing = randomize_norms(PreActBlock(channels, 32, stride=stride)).eval()
    nn.init.zeros_(changing.get_parameter("conv2.weight"))
    w = list(changing.state_dict().values())
    x = torch.randn(2, channels, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        y = changing(x)
    torch.testing.assert_close(y, F.conv2d(norm_relu(x, w[:5], False), w[12], stride=stride))
    assert y.shape == (2, *out)


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 62)])
def test_parameter_count_matches_the_layer_shapes(channels: int, classes: int) -> None:
    def norm_and_3x3(channels: int, out_channels: int) -> int:
        return 2 * channels + 9 * channels * out_channels

    stem, last = 9 * channels * 16, 2 * 64 + (64 + 1) * classes
    stage1 = norm_and_3x3(16, 32) + 3 * norm_and_3x3(32, 32) + 16 * 32
    stage2 = norm_and_3x3(32, 64) + 3 * norm_and_3x3(64, 64) + 32 * 64
    parameters = sum(weight.numel() for weight in PreActNet(channels, classes).parameters())
    assert parameters == stem + stage1 + stage2 + last
