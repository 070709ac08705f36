"""Residual network for 28x28 digits, after He et al. 2015 (arXiv:1512.03385).

A small version, as in tutorials on MNIST: two residual blocks, and convolutions without batch norm.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width


class ResidualBlock(nn.Module):
    """relu(x + conv3x3(relu(conv3x3(x)))). The convolutions have biases instead of batch norm.

    Input and output (N, channels, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))  # (N, channels, H, W)
        y = self.conv2(y)  # (N, channels, H, W)
        return F.relu(x + y)  # (N, channels, H, W)


class ResidualNet(nn.Module):
    """Two 5x5 convolutions, each followed by a residual block, and one linear layer.

    Layers are defined in the order of the forward pass, so state dicts of other implementations load by position.
    Input: normalized images (N, channels, height, width) float. Output: logits (N, classes).
    Raises UsageError if `size` is below 16x16, because the second pooling would leave no pixels.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height, width = height_and_width(size, min_side=16, arch="residual")
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=5)
        self.block1 = ResidualBlock(16)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5)
        self.block2 = ResidualBlock(32)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))  # after conv and pool, twice
        self.linear = nn.Linear(32 * rows * columns, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (N, 16, 12, 12) for 28x28 images
        x = self.block1(x)  # (N, 16, 12, 12)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (N, 32, 4, 4)
        x = self.block2(x)  # (N, 32, 4, 4)
        x = x.flatten(1)  # (N, 512)
        return self.linear(x)  # (N, classes)
