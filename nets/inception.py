"""Inception net for 28x28 digits, after Szegedy et al. 2015 (arXiv:1409.4842), in the small form taught for MNIST."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width


class InceptionA(nn.Module):
    """Four views of the same input side by side: 1x1, 5x5, two 3x3, and a pooled one.

    The 1x1 convolutions set how many channels the dear kernels see. No activation inside the branches.
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
        branches = [self.branch1x1(x), self.branch5x5(x), self.branch3x3(x), self.branch_pool(x)]
        return torch.cat(branches, dim=1)  # (N, 16 + 24 + 24 + 24, H, W)


class InceptionNet(nn.Module):
    """Two 5x5 convolutions, each followed by an InceptionA, and one linear layer.

    Layers stand in the order of the forward pass, so that weights written elsewhere load by position.
    Input (N, channels, height, width) float, normalised; output logits (N, classes).
    Raises UsageError where `size` is below 16 x 16: nothing would be left after the second pool.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height, width = height_and_width(size, least=16, of="inception")
        self.conv1 = nn.Conv2d(channels, 10, kernel_size=5)
        self.inception1 = InceptionA(10)
        self.conv2 = nn.Conv2d(InceptionA.out_channels, 20, kernel_size=5)
        self.inception2 = InceptionA(20)
        left = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
        self.linear = nn.Linear(InceptionA.out_channels * left[0] * left[1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (N, 10, 12, 12) for 28x28
        x = self.inception1(x)  # (N, 88, 12, 12)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (N, 20, 4, 4)
        x = self.inception2(x)  # (N, 88, 4, 4)
        return self.linear(x.flatten(1))  # (N, 1408) -> (N, classes)
