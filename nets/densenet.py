"""DenseNet-BC for digits, after Huang et al. 2017 (arXiv:1608.06993)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width

GROWTH = 24  # channels that each layer adds, k in the paper


class DenseLayer(nn.Module):
    """BN-ReLU-conv1x1 to 4k channels (the B in BC) and BN-ReLU-conv3x3 to k, concatenated to the input.

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
        y = self.body(x)  # (N, k, H, W)
        return torch.cat([x, y], dim=1)  # (N, channels + k, H, W)


def dense_block(channels: int, layers: int) -> nn.Sequential:
    """`layers` dense layers, each of which sees the outputs of all before it.

    Input (N, channels, H, W); output (N, channels + layers * k, H, W).
    """
    return nn.Sequential(*(DenseLayer(channels + i * GROWTH) for i in range(layers)))


class Transition(nn.Sequential):
    """BN-ReLU-conv1x1 to half the channels (the C in BC), and 2x2 average pooling.

    Input (N, channels, H, W); output (N, channels / 2, H / 2, W / 2), rounded down.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(nn.Module):
    """A stem to 2k channels, a dense block of two layers, a transition, a dense block of four, and one linear layer.

    The stem halves the image, as the paper's network for ImageNet does, but with small convolutions, as in DSOD (Shen
    et al. 2017, arXiv:1708.01241). The blocks are short: an epoch of MNIST takes under a minute on two cores.
    Input (N, channels, height, width) float, normalized; output logits (N, classes).
    Raises UsageError if `size` is below 8x8.
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
        x = self.block1(x)  # (N, 96, 14, 14)
        x = self.transition(x)  # (N, 48, 7, 7)
        x = self.block2(x)  # (N, 144, 7, 7)
        x = F.relu(self.bn(x))  # (N, 144, 7, 7)
        x = x.mean(dim=(2, 3))  # (N, 144)
        return self.linear(x)  # (N, classes)
