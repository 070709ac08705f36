"""Small networks as users write them: some can be exported, and each of the others has one reason why not."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UserNetwork(nn.Module):
    """A convolution, then `body`, then the mean over height and width and a linear layer."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def body(self, x: Tensor) -> Tensor:
        return x

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.first(images).relu()).mean((2, 3)))
        return logits


class WithLayer(UserNetwork):
    """Has the module `layer` in its body."""

    def __init__(self, layer: nn.Module, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.layer = layer

    def body(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class IfOnValues(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return 2 * x if x.mean() > 0.1 else x


class SingularValues(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x + torch.linalg.svdvals(x).mean(-1)[:, :, None, None]


class CountsNonzero(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x + x.nonzero().float().mean()


class FixedBatch(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x.reshape(2, 8, *x.shape[2:])


class MaxPoolTo(nn.Module):
    """Pools to a grid whose size may not divide the size of the feature maps."""

    def __init__(self, grid: int, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pool, self.head = nn.AdaptiveMaxPool2d(grid), nn.Linear(channels * grid**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(images).flatten(1))
        return logits


class ActiveDropout(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class MinusBatchMean(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class CastToFloat(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x.float() * 1.5


class HalfInside(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x.half().square().float()


class FloatConstant(UserNetwork):
    """The constant is a plain attribute, so no conversion of the module reaches it."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.scale = torch.linspace(0.5, 1.5, 8).view(-1, 1, 1)

    def body(self, x: Tensor) -> Tensor:
        return x * self.scale


class ExpandToBatch(UserNetwork):
    """Adds a learned map to each image, expanded to the number of images."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.offset = nn.Parameter(torch.linspace(-1, 1, 8).view(1, 8, 1, 1))

    def body(self, x: Tensor) -> Tensor:
        return x + self.offset.expand(len(x), -1, -1, -1)


class BracesInError(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise ValueError("bad options {'a': 1}")
        return x


class OffInExport(UserNetwork):
    """Computes other values during the export."""

    def body(self, x: Tensor) -> Tensor:
        return 1.01 * x if torch.compiler.is_exporting() else x


class InterruptedInExport(UserNetwork):
    """Is interrupted during the export, as by Ctrl-C."""

    def body(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise KeyboardInterrupt
        return x


class AssertsFloat32(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return x


class ComputedAttribute(UserNetwork):
    """Keeps a tensor that PyTorch cannot copy, because it was computed from a weight."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.scale = self.head.weight.sum()


class StoresActivations(UserNetwork):
    """Keeps its last activations, as code for heat maps does, and a product of weights, as timm's LeViT does."""

    def body(self, x: Tensor) -> Tensor:
        self.activations = x
        self.scale = self.head.weight.sum()
        return x


class BfloatInside(UserNetwork):
    def body(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).float()


class ScriptedFunction(UserNetwork):
    """Keeps a function that torch.jit.script compiled."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.swish = torch.jit.script(swish)

    def body(self, x: Tensor) -> Tensor:
        return self.swish(x)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Distances(UserNetwork):
    """Returns distances, which PyTorch computes in another way for more than 25 images."""

    def forward(self, images: Tensor) -> Tensor:
        return -torch.cdist(self.first(images).mean((2, 3)), self.head.weight)


class DynamicKernels(UserNetwork):
    """Applies a kernel of its own to each image, by a convolution with one group per image."""

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = x.mean((2, 3)).reshape(n * c, 1, 1, 1).expand(-1, c, -1, -1)
        return F.conv2d(x.reshape(1, n * c, h, w), kernels, groups=n).view(n, c, h, w)


class Clips(UserNetwork):
    """Assigns to the pixels of a mask, and to parts of a tensor."""

    def body(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[x > 0.2] = 0.2
        x[:, :2, ::2] = -1
        return x
