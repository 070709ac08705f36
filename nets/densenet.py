"""DenseNet-BC for 28x28 digits, after Huang et al. 2017, Densely Connected Networks (arXiv:1608.06993)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width

GROWTH = 24  # k in the paper: channels that each layer adds


class DenseLayer(nn.Module):
    """BN-ReLU-conv1x1 to 4k channels (the B of BC), BN-ReLU-conv3x3 to k; the input is passed on beside the output.

    Input (N, channels, H, W); output (N, channels + k, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * GROWTH, kernel_size=1, bias=False),
            nn.BatchNorm2d(4 * GROWTH),
            nn.ReLU(),
            nn.Conv2d(4 * GROWTH, GROWTH, kernel_size=3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


def dense_block(channels: int, layers: int) -> nn.Sequential:
    """`layers` dense layers, each of which sees all before it: (N, c, H, W) -> (N, c + layers * k, H, W)."""
    return nn.Sequential(*(DenseLayer(channels + i * GROWTH) for i in range(layers)))


class Transition(nn.Sequential):
    """Between blocks: BN-ReLU-conv1x1 to half the channels (the C of BC), then 2x2 average pool."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(nn.Module):
    """A stem to 2k channels, dense blocks of two and four layers, a transition between, one linear layer.

    The stem halves the image, as the paper's ImageNet form does, but by small convolutions, as Shen et al. 2017 do
    (DSOD, arXiv:1708.01241). The blocks are short: an epoch of MNIST takes under a minute on two cores.
    Input (N, channels, height, width) float, normalised; output logits (N, classes).
    Raises UsageError where `size` is below 8 x 8.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height_and_width(size, least=8, of="densenet")
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 2 * GROWTH, kernel_size=3, stride=2, padding=1, bias=False),
        )
        self.block1 = dense_block(48, layers=2)
        self.transition = Transition(96)
        self.block2 = dense_block(48, layers=4)
        self.bn = nn.BatchNorm2d(144)
        self.linear = nn.Linear(144, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, 48, 14, 14)
        x = self.block1(x)  # (N, 48 + 2 * 24, 14, 14)
        x = self.transition(x)  # (N, 48, 7, 7)
        x = self.block2(x)  # (N, 48 + 4 * 24, 7, 7)
        x = F.relu(self.bn(x))
        return self.linear(x.mean(dim=(2, 3)))  # (N, 144) -> (N, classes)
