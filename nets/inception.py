"""Inception network for 28x28 digits, after Szegedy et al. 2015 (arXiv:1409.4842).

A small version, as in tutorials on MNIST: two Inception modules, and convolutions without batch norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width


class InceptionA(nn.Module):
    """Concatenate four branches over the same input: 1x1, 5x5, two 3x3, and average pooling.

    The 1x1 convolutions reduce the number of channels before the larger kernels. The branches have no activations.
    Input (N, channels, H, W); output (N, 88, H, W).
    """

    out_channels = 16 + 24 + 24 + 24

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = nn.Conv2d(channels, 16, kernel_size=1)
        self.branch5x5 = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=1),
            nn.Conv2d(16, 24, kernel_size=5, padding=2),
        )
        self.branch3x3 = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=1),
            nn.Conv2d(16, 24, kernel_size=3, padding=1),
            nn.Conv2d(24, 24, kernel_size=3, padding=1),
        )
        self.branch_pool = nn.Sequential(
            nn.AvgPool2d(kernel_size=3, stride=1, padding=1),
            nn.Conv2d(channels, 24, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.branch1x1(x),  # (N, 16, H, W)
                self.branch5x5(x),  # (N, 24, H, W)
                self.branch3x3(x),  # (N, 24, H, W)
                self.branch_pool(x),  # (N, 24, H, W)
            ],
            dim=1,
        )  # (N, 16 + 24 + 24 + 24, H, W)


class InceptionNet(nn.Module):
    """Two 5x5 convolutions, each followed by an InceptionA, and one linear layer.

    Layers are defined in the order of the forward pass, so state dicts of other implementations load by position.
    Input: normalized images (N, channels, height, width) float. Output: logits (N, classes).
    Raises UsageError if `size` is below 16x16, because the second pooling would leave no pixels.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height, width = height_and_width(size, min_side=16, arch="inception")
        self.conv1 = nn.Conv2d(channels, 10, kernel_size=5)
        self.inception1 = InceptionA(10)
        self.conv2 = nn.Conv2d(InceptionA.out_channels, 20, kernel_size=5)
        self.inception2 = InceptionA(20)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))  # after conv and pool, twice
        self.linear = nn.Linear(InceptionA.out_channels * rows * columns, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (N, 10, 12, 12) for 28x28 images
        x = self.inception1(x)  # (N, 88, 12, 12)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (N, 20, 4, 4)
        x = self.inception2(x)  # (N, 88, 4, 4)
        x = x.flatten(1)  # (N, 1408)
        return self.linear(x)  # (N, classes)
