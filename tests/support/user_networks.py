"""Networks as users write them. Their names are tests.support.user_networks:CLASS."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 8


class TwoConvolutions(nn.Module):
    """Two convolutions and a linear layer; the networks below differ from it in one point."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1)
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.relu(self.stem(x))))
        return F.relu(self.second(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ItemInInit(TwoConvolutions):
    """Reads the values of tensors in __init__, as torchvision's regnets do."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]


class NumpyInInit(TwoConvolutions):
    """Initializes a weight with NumPy."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        spectrum = np.linalg.svd(self.head.weight.detach().numpy(), compute_uv=False)
        self.head.weight.data /= float(spectrum[0])


class AssertInInit(TwoConvolutions):
    """Checks the values of a weight in __init__."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        assert self.head.weight.abs().max() < 1


class FailsInInit(TwoConvolutions):
    """Fails at every size, after it read a value."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        assert self.head.weight.abs().max() > 1, "the weights are too small"


class InvertsImages(TwoConvolutions):
    """Fails at every size, for a reason that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.linalg.inv(x - x))


class Lazy(nn.Module):
    """Layers that get their shapes in the first forward pass."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyConv2d(WIDTH, 3, stride=2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class UnusedLazy(TwoConvolutions):
    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.unused = nn.LazyLinear(classes)


class Unused(TwoConvolutions):
    """Has a convolution and a linear layer that its forward pass does not use."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.left_over = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3), nn.Linear(WIDTH, WIDTH))


class Volume(TwoConvolutions):
    """Convolves over channels, height and width, so a weight has five axes."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.volume = nn.Conv3d(1, 1, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.relu(self.stem(x))))
        return F.relu(self.volume(x.unsqueeze(1)).squeeze(1)).mean((2, 3))


class ValuesDecide(TwoConvolutions):
    """Has control flow that depends on the images."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return -logits if x.mean() > 100 else logits


class AuxiliaryHead(TwoConvolutions):
    """Also returns the logits of an auxiliary head in training mode."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.auxiliary = nn.Sequential(nn.Conv2d(WIDTH, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return (logits, self.auxiliary(F.relu(self.stem(x)))) if self.training else logits


class FeaturesFirst(TwoConvolutions):
    """Returns a tuple in training mode that does not begin with logits."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        features = self.features(x)
        return (features, self.head(features)) if self.training else self.head(features)


class ModuleTwice(TwoConvolutions):
    """Uses a convolution twice, without a second name."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        del self.second

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.relu(self.stem(x))))
        return F.relu(self.first(x)).mean((2, 3))


class ModuleWithTwoNames(TwoConvolutions):
    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.second = self.first


class TiedConvolutions(TwoConvolutions):
    """Two convolutions with one weight and two biases."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.second.weight = self.first.weight


class TiedHeads(TwoConvolutions):
    """The last layer has two names, and the head of the other networks comes first."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.before_head = nn.Linear(WIDTH, WIDTH)
        self.last = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.before_head(self.features(x))))


class LinearView(TwoConvolutions):
    """The weight of a linear layer is a transposed view of another one's."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.encoder, self.decoder = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)
        self.decoder.weight = nn.Parameter(self.encoder.weight.t())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(F.relu(self.encoder(self.features(x)))))


class ConvolutionView(TwoConvolutions):
    """The weight of a convolution is another parameter with the memory of the first one's."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(channels, classes, size)
        self.second.weight = nn.Parameter(self.first.weight)
