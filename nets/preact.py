"""Pre-activation residual network for 28x28 digits, after He et al. 2016 (arXiv:1603.05027)."""

from torch import Tensor, nn
from torch.nn import functional as F

from netkit.nets.sizes import Size, height_and_width


class PreActBlock(nn.Module):
    """x + conv3x3(relu(bn(conv3x3(relu(bn(x)))))), figure 4e of the paper: no activation on the identity path.

    If the shape changes, the shortcut is a 1x1 convolution of the pre-activated input, as in the authors' code.
    Input (N, channels, H, W); output (N, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        same_shape = stride == 1 and channels == out_channels
        self.shortcut = None if same_shape else nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))  # (N, channels, H, W)
        identity = x if self.shortcut is None else self.shortcut(active)  # (N, out_channels, H / stride, W / stride)
        y = self.conv1(active)  # (N, out_channels, H / stride, W / stride)
        y = self.conv2(F.relu(self.bn2(y)))  # (N, out_channels, H / stride, W / stride)
        return identity + y  # (N, out_channels, H / stride, W / stride)


class PreActNet(nn.Module):
    """A 3x3 stem, two stages of two pre-activation blocks, at half and at quarter size, and one linear layer.

    The paper's first stage, at full size, is left out to keep an epoch of MNIST below a minute on two cores.
    Input: normalized images (N, channels, height, width) float. Output: logits (N, classes).
    Raises UsageError if `size` is below 8x8.
    """

    def __init__(self, channels: int = 1, classes: int = 10, size: Size = 28) -> None:
        super().__init__()
        height_and_width(size, min_side=8, arch="preact")
        self.stem = nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False)
        self.stage1 = nn.Sequential(PreActBlock(16, 32, stride=2), PreActBlock(32, 32, stride=1))
        self.stage2 = nn.Sequential(PreActBlock(32, 64, stride=2), PreActBlock(64, 64, stride=1))
        self.bn = nn.BatchNorm2d(64)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, 16, 28, 28) for 28x28 images
        x = self.stage1(x)  # (N, 32, 14, 14)
        x = self.stage2(x)  # (N, 64, 7, 7)
        x = F.relu(self.bn(x))  # (N, 64, 7, 7); the blocks activate their inputs, not their outputs
        x = x.mean(dim=(2, 3))  # (N, 64)
        return self.linear(x)  # (N, classes)
