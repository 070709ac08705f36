"""Residual network for digits, after He et al. 2015 (arXiv:1512.03385), in a small form taught for MNIST."""

from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width


class ResidualBlock(nn.Module):
    """relu(x + conv3x3(relu(conv3x3(x)))), with biases and without batch norm.

    Input and output (N, channels, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))  # (N, channels, H, W)
        y = self.conv2(y)  # (N, channels, H, W)
        return F.relu(x + y)


class ResidualNet(nn.Module):
    """Two 5x5 convolutions, each followed by a residual block, and one linear layer.

    The layers are defined in the order of the forward pass, so that weights written elsewhere load by position.
    Input (N, channels, height, width) float, normalized; output logits (N, classes).
    Raises UsageError if `size` is below 16x16: nothing would remain after the second pooling.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height, width = height_and_width(size, least=16, of="residual")
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=5)
        self.block1 = ResidualBlock(16)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5)
        self.block2 = ResidualBlock(32)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))  # after two convolutions and poolings
        self.linear = nn.Linear(32 * rows * columns, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (N, 16, 12, 12) for 28x28
        x = self.block1(x)  # (N, 16, 12, 12)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (N, 32, 4, 4)
        x = self.block2(x)  # (N, 32, 4, 4)
        x = x.flatten(1)  # (N, 512)
        return self.linear(x)  # (N, classes)
