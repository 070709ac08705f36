"""DenseNet-BC for 28x28 digits, after Huang et al. 2017 (arXiv:1608.06993).

The stem follows DSOD (Shen et al. 2017, arXiv:1708.01241).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width

GROWTH = 24  # channels that a dense layer adds; k in the paper


class DenseLayer(nn.Module):
    """Concatenate the input with k new channels: BN-ReLU-conv1x1 to 4k (the B in BC), BN-ReLU-conv3x3 to k.

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
    """Chain `layers` dense layers; each one takes the block's input and the outputs of all layers before it.

    Input (N, channels, H, W); output (N, channels + layers * k, H, W).
    """
    return nn.Sequential(*(DenseLayer(channels + i * GROWTH) for i in range(layers)))


class Transition(nn.Sequential):
    """BN-ReLU-conv1x1 to half the channels (the C in BC), then 2x2 average pooling.

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
    """A stem, a dense block of two layers, a transition, a dense block of four layers, and one linear layer.

    The stem halves height and width, as the paper's network for ImageNet does, but with 3x3 convolutions, as in DSOD.
    The blocks are short to keep an epoch of MNIST below a minute on two cores.
    Input: normalized images (N, channels, height, width) float. Output: logits (N, classes).
    Raises UsageError if `size` is below 8x8.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height_and_width(size, min_side=8, arch="densenet")
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
        x = self.stem(x)  # (N, 48, 14, 14) for 28x28 images
        x = self.block1(x)  # (N, 96, 14, 14)
        x = self.transition(x)  # (N, 48, 7, 7)
        x = self.block2(x)  # (N, 144, 7, 7)
        x = F.relu(self.bn(x))  # (N, 144, 7, 7)
        x = x.mean(dim=(2, 3))  # (N, 144)
        return self.linear(x)  # (N, classes)
