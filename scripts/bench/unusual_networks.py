"""More networks as in `user_networks.py`: with rare operators, and with errors that must be found before training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from user_networks import WIDTH, Network, Size, conv


class FourierFeatures(Network):
    def body(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sin(torch.pi * x), torch.cos(torch.pi * x)], 1)[:, ::2]


class EinsumHead(Network):  # one attention map per class
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.maps, self.vectors = nn.Conv2d(WIDTH, classes, 1), nn.Parameter(torch.randn(classes, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = self.maps(x).flatten(2).softmax(-1)
        return torch.einsum("nkp,ncp,kc->nk", weights, x.flatten(2), self.vectors)


class MaxOverPixels(Network):  # and the largest 3 of each channel
    def pool(self, x: Tensor) -> Tensor:
        return torch.amax(x, dim=(2, 3)) + x.flatten(2).topk(3, dim=-1).values.mean(-1)


class CosineClassifier(Network):  # normalized embeddings and weights
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.temperature = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.pool(self.body(self.stem(x))), dim=1)
        return self.temperature * x @ F.normalize(self.head.weight, dim=1).t()


class Prototypes(Network):  # distances to one vector per class
    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.pool(self.body(self.stem(x))), self.head.weight)


class PixelShuffle(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(
            *(nn.PixelUnshuffle(2), conv(4 * WIDTH, 4 * WIDTH, 1), nn.PixelShuffle(2)),
            *(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), conv(WIDTH, WIDTH, stride=2)),
        )


class DilatedConvolutions(Network):  # three rates side by side
    def make_layers(self) -> nn.Module:
        return nn.ModuleList(conv(WIDTH, WIDTH, dilation=rate, padding=rate) for rate in (1, 2, 4))

    def body(self, x: Tensor) -> Tensor:
        assert isinstance(self.layers, nn.ModuleList)
        return torch.stack([layer(x) for layer in self.layers]).sum(0)


class PowerPools(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(nn.LPPool2d(2, 2), nn.Softplus(), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True))

    def pool(self, x: Tensor) -> Tensor:  # generalized mean
        return x.clamp(min=1e-6).pow(3).mean((-2, -1)).pow(1 / 3)


class MixtureOfExperts(Network):  # the two best of four linear layers for each image
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.gate, self.experts = nn.Linear(WIDTH, 4), nn.ModuleList(nn.Linear(WIDTH, classes) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        values, chosen = self.gate(x).topk(2, dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        outputs = outputs.gather(1, chosen.unsqueeze(-1).expand(-1, -1, outputs.shape[-1]))
        return (values.softmax(-1).unsqueeze(-1) * outputs).sum(1)


class AdaptivePools(nn.Module):  # a pyramid of pools, and lazy modules
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.LazyConv2d(WIDTH, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())
        self.pools = nn.ModuleList([nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2), nn.AdaptiveMaxPool2d(1)])
        self.head = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([pool(x).flatten(1) for pool in self.pools], 1))


class PaddingModes(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="reflect"), nn.CELU()),
            *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular"), nn.SELU()),
            *(nn.ReplicationPad2d(1), nn.Conv2d(WIDTH, 2 * WIDTH, 3), nn.GLU(dim=1)),
        )


class BilinearPooling(Network):  # with square roots
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.head = nn.Linear(WIDTH**2, classes)

    def pool(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.bmm(x, x.transpose(1, 2)).flatten(1) / x.shape[-1]
        return F.normalize(torch.sqrt(x + 1e-5))


class Capsules(Network):  # three rounds of routing
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.votes = nn.Parameter(0.1 * torch.randn(1, WIDTH, classes, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.stem(x), 4).flatten(2)[:, :, None, :, None]
        votes = (self.votes @ x).squeeze(-1)  # (N, WIDTH, classes, 8)
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(3):
            total = (logits.softmax(-1).unsqueeze(-1) * votes).sum(1)
            square = total.pow(2).sum(-1, keepdim=True)
            total = total * square / ((1 + square) * torch.sqrt(square + 1e-8))
            logits = logits + (votes * total.unsqueeze(1)).sum(-1)
        return total.norm(dim=-1)


class Unfold(Network):  # a kernel computed for each pixel
    def make_layers(self) -> nn.Module:
        return nn.Conv2d(WIDTH, 9, 1)

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = self.layers(x).view(n, 1, 9, h, w)
        return (F.unfold(x, 3, padding=1).view(n, c, 9, h, w) * kernels).sum(2)


class EdgeFilters(Network):  # fixed kernels, and the norm of the gradient
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.register_buffer("kernels", torch.stack([sobel, sobel.t()])[:, None].repeat(WIDTH, 1, 1, 1))

    def body(self, x: Tensor) -> Tensor:
        kernels = self.get_buffer("kernels")
        edges = F.conv2d(x, kernels, padding=1, groups=WIDTH).view(len(x), WIDTH, 2, *x.shape[2:])
        return torch.hypot(edges[:, :, 0], edges[:, :, 1])


class NormalizesImages(Network):  # each by its own mean and standard deviation
    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-5)
        return super().forward(x)


class AssignsInPlace(Network):  # writes to parts of a tensor
    def body(self, x: Tensor) -> Tensor:
        x = self.layers(x).clone()
        x[:, :4] += 1
        x[:, 4:8, ::2, ::2] = 0
        x[x > 2] = 2
        return x


class Recomputes(Network):  # saves memory in training, with an auxiliary head
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        x = self.stem(x)
        y = self.head(self.pool(checkpoint(self.body, x, use_reentrant=False)))
        return (y, self.head(self.pool(x))) if self.training else y


class CastsToHalf(Network):
    def body(self, x: Tensor) -> Tensor:
        return self.layers(x).half().square().float()


class RandomDepth(Network):  # drops whole layers in training
    def make_layers(self) -> nn.Module:
        return nn.ModuleList(conv(WIDTH, WIDTH) for _ in range(3))

    def body(self, x: Tensor) -> Tensor:
        assert isinstance(self.layers, nn.ModuleList)
        for layer in self.layers:
            if not self.training or torch.rand(1).item() > 0.2:
                x = x + layer(x)
        return x


class DynamicKernels(Network):  # a mixture of kernels for each image, by a grouped convolution
    def make_layers(self) -> nn.Module:
        return nn.Linear(WIDTH, 4)

    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.kernels = nn.Parameter(0.1 * torch.randn(4, WIDTH * WIDTH * 9))

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = self.layers(x.mean((2, 3))).softmax(-1) @ self.kernels
        x = F.conv2d(x.reshape(1, n * c, h, w), kernels.view(n * c, c, 3, 3), padding=1, groups=n)
        return x.view(n, c, h, w)


class Frequencies(Network):  # the amplitudes of a Fourier transform, as complex numbers
    def body(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, norm="ortho").abs()


class IfOnValues(Network):
    def body(self, x: Tensor) -> Tensor:
        return self.layers(x) if x.mean() > 0.1 else x


class LoopOverImages(Network):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(LoopOverImages, self).forward(image[None]) for image in x])


class DropoutLeftOn(Network):
    def body(self, x: Tensor) -> Tensor:
        return F.dropout(self.layers(x), 0.2)


class BatchStatistics(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3), nn.BatchNorm2d(WIDTH, track_running_stats=False), nn.ReLU())


class SelectsPixels(Network):  # the mean over the positive pixels only
    def pool(self, x: Tensor) -> Tensor:
        return torch.stack([torch.stack([channel[channel > 0].mean() for channel in image]) for image in x])


class SingularValues(Network):
    def pool(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)[..., 0]


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class ScriptedFunction(Network):
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.activation = torch.jit.script(swish)

    def body(self, x: Tensor) -> Tensor:
        return self.activation(self.layers(x))


class ComputedConstant(Network):  # keeps a tensor computed from a weight
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.scale = self.head.weight.norm()

    def body(self, x: Tensor) -> Tensor:
        return x / self.scale
