"""DenseNet, against the same network written with torch.nn.functional on weights taken by position."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.nets.densenet import DenseLayer, DenseNet, Transition, dense_block
from tests.support.networks import norm_relu, randomize_norms


def block(x: Tensor, w: list[Tensor], training: bool) -> Tensor:
    """A dense block of layers with 12 tensors each: norm (5), 1x1, norm (5), 3x3."""
    maps = [x]
    for i in range(0, len(w), 12):
        y = F.conv2d(norm_relu(torch.cat(maps, 1), w[i : i + 5], training), w[i + 5])
        maps.append(F.conv2d(norm_relu(y, w[i + 6 : i + 11], training), w[i + 11], padding=1))
    return torch.cat(maps, 1)


@pytest.mark.parametrize("training", [False, True])
def test_network_equals_its_functional_form(training: bool) -> None:
    torch.manual_seed(0)
    net = randomize_norms(DenseNet()).train(training)
    w = [values.clone() for values in net.state_dict().values()]
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    y = norm_relu(F.conv2d(x, w[0], padding=1), w[1:6], training)
    y = block(F.conv2d(y, w[6], stride=2, padding=1), w[7:31], training)
    assert y.shape == (3, 96, 14, 14)
    y = F.conv2d(norm_relu(y, w[31:36], training), w[36]).unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    assert y.shape == (3, 48, 7, 7)
    y = norm_relu(block(y, w[37:85], training), w[85:90], training).flatten(2).mean(2)
    with torch.no_grad():
        torch.testing.assert_close(net(x), F.linear(y, w[90], w[91]))
    assert [tuple(w[i].shape) for i in (0, 6, 12, 18, 36, 90)] == [
        (16, 1, 3, 3), (48, 16, 3, 3), (96, 48, 1, 1), (24, 96, 3, 3), (48, 96, 1, 1), (10, 144),
    ]  # fmt: skip
    assert len(w) == 92


@pytest.mark.parametrize("training", [False, True])
def test_first_channels_of_a_blocks_output_are_its_input(training: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 24, 9, 7, dtype=torch.float64)
    dense = randomize_norms(dense_block(24, layers=3)).train(training)
    with torch.no_grad():
        y = dense(x)
        assert y.shape == (2, 24 + 3 * 24, 9, 7)
        assert torch.equal(y[:, :24], x)
        assert torch.equal(y[:, : 24 + 24], next(dense.children())(x))


def test_every_layer_depends_on_all_channels_before_it() -> None:
    torch.manual_seed(0)
    dense = randomize_norms(dense_block(24, layers=4)).eval()
    x = torch.randn(1, 24, 9, 7, dtype=torch.float64, requires_grad=True)
    for added in dense(x)[:, 24:].split(24, dim=1):
        (gradient,) = torch.autograd.grad(added.sum(), x, retain_graph=True)
        assert (gradient.abs().amax((0, 2, 3)) > 0).all()
    for index, layer in enumerate(dense.children()):
        assert isinstance(layer, DenseLayer)
        assert layer.body.get_parameter("2.weight").shape == (4 * 24, 24 + index * 24, 1, 1)


@pytest.mark.parametrize(("side", "half"), [(14, 7), (7, 3), (2, 1)])
@pytest.mark.parametrize("channels", [64, 48])
def test_transition_halves_channels_height_and_width(channels: int, side: int, half: int) -> None:
    torch.manual_seed(0)
    transition = randomize_norms(Transition(channels)).eval()
    w = list(transition.state_dict().values())
    x = torch.randn(2, channels, side, side + 2, dtype=torch.float64)
    with torch.no_grad():
        y = transition(x)
    assert y.shape == (2, channels // 2, half, half + 1)
    narrow = torch.einsum("nchw,oc->nohw", norm_relu(x, w[:5], False), w[5][:, :, 0, 0])
    torch.testing.assert_close(y[:, :, 0, 0], narrow[:, :, :2, :2].mean((2, 3)))


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 62)])
def test_parameter_count_matches_the_layer_shapes(channels: int, classes: int) -> None:
    def dense_layer(channels: int) -> int:
        return 2 * channels + channels * 96 + 2 * 96 + 9 * 96 * 24

    stem = 9 * channels * 16 + 2 * 16 + 9 * 16 * 48
    blocks = sum(map(dense_layer, (48, 72))) + sum(map(dense_layer, (48, 72, 96, 120)))
    transition = 2 * 96 + 96 * 48
    parameters = sum(weight.numel() for weight in DenseNet(channels, classes).parameters())
    assert parameters == stem + blocks + transition + 2 * 144 + (144 + 1) * classes
