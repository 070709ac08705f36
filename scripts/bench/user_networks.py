"""Small networks as people write them in tutorials and bug reports, for `networks.py`. None was written for an export.

Each class takes `channels`, `classes` and `size`, so `netkit train --arch user_networks:NAME` accepts it. Comments name
what is unusual.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

WIDTH = 16
Size = tuple[int, int]


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Network(nn.Module):
    """A convolution, a `body` that keeps WIDTH channels, the mean over all pixels, and a linear layer."""

    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.stem = conv(channels, WIDTH, stride=2)
        self.layers = self.make_layers()
        self.head = nn.Linear(WIDTH, classes)

    def make_layers(self) -> nn.Module:
        return conv(WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(x))))


class LeNet5(nn.Sequential):  # with tanh, as in 1998
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        flat = 16 * (size[0] // 4) * (size[1] // 4)
        super().__init__(
            *(nn.Conv2d(channels, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(flat, 84), nn.Tanh(), nn.Linear(84, classes)),
        )


class LogSoftmaxEnd(nn.Module):  # the tutorial network for MNIST, trained with nll_loss
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 16, 3), nn.Conv2d(16, 32, 3)
        self.dropout = nn.Dropout2d(0.25)
        self.fc1 = nn.Linear(32 * ((size[0] - 4) // 2) * ((size[1] - 4) // 2), 64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.relu(self.fc1(torch.flatten(self.dropout(x), 1)))
        return F.log_softmax(self.fc2(x), dim=1)


class SoftmaxEnd(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Perceptron(nn.Sequential):  # batch norm on vectors
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(
            *(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Dropout(0.5), nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, classes)),
        )


class Patches(nn.Module):
    """Non-overlapping patches of 4x4 pixels: (N, C, H, W) -> (N, H W / 16, 32)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 32, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2)


class MixerBlock(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.mix_tokens = nn.Sequential(nn.Linear(tokens, 64), nn.GELU(), nn.Linear(64, tokens))
        self.mix_channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mix_channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        tokens = size[0] * size[1] // 16
        self.layers = nn.Sequential(Patches(channels), MixerBlock(tokens), MixerBlock(tokens), nn.LayerNorm(32))
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class VisionTransformer(nn.Module):  # PyTorch's own encoder layers, and a class token
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.patches = Patches(channels)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, size[0] * size[1] // 16 + 1, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class AttentionByHand(Network):  # self-attention over pixels, written out
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.qkv, self.out = nn.Conv2d(WIDTH, 3 * WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)

    def body(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, 4, c // 4, h * w).unbind(1)
        attention = (q.transpose(-2, -1) @ k / math.sqrt(c // 4)).softmax(-1)
        return x + self.out((v @ attention.transpose(-2, -1)).reshape(b, c, h, w))


class LSTMOverRows(nn.Module):  # bidirectional
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels * size[1], 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x.transpose(1, 2).flatten(2))
        return self.head(output[:, -1])


class GRUOverRows(nn.Module):  # with an initial state
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.gru = nn.GRU(channels * size[1], 32, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, x.size(0), 32, device=x.device, dtype=x.dtype)
        _, state = self.gru(x.transpose(1, 2).flatten(2), start)
        return self.head(state[-1])


class TemporalConvolutions(nn.Module):  # causal, dilated, with weight norm
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        widths = [channels * size[1], 32, 32, 32]
        self.layers = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv1d(widths[i], widths[i + 1], 3, padding=2 * 2**i, dilation=2**i))
            for i in range(3)
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(2, 3).flatten(1, 2)
        for layer in self.layers:
            x = F.relu(layer(x)[..., : x.shape[-1]])
        return self.head(x[..., -1])


class UNet(nn.Module):  # encoder, decoder with transposed convolutions, skip connections
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(channels, 8), conv(8, 16), conv(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join2, self.join1, self.head = conv(32, 16), conv(16, 8), nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.join2(torch.cat([self.up2(x), second], 1))
        x = self.join1(torch.cat([self.up1(x), first], 1))
        return self.head(x).mean((-2, -1))


class SqueezeExcite(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, 4, 1), nn.SiLU(), nn.Conv2d(4, WIDTH, 1), nn.Hardsigmoid())
        )

    def body(self, x: Tensor) -> Tensor:
        return x * self.layers(x)


class DepthwiseSeparable(Network):  # with hard swish and ReLU6
    def make_layers(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH), nn.Hardswish()),
            *(nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.ReLU6(), nn.Conv2d(2 * WIDTH, WIDTH, 1)),
        )


class ChannelShuffle(Network):
    def body(self, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, torch.relu(-right)], 1)
        return self.layers(x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w))


class GroupNormResidual(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(
            *(nn.GroupNorm(4, WIDTH), nn.Mish(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)),
            *(nn.GroupNorm(4, WIDTH), nn.ELU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        )

    def body(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class InstanceNorm(Network):
    def make_layers(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.InstanceNorm2d(WIDTH, affine=True), nn.LeakyReLU(0.2)
        )


class ChannelsLastNorm(Network):  # layer norm over channels, with a scale per layer, as in ConvNeXt
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.norm, self.scale = nn.LayerNorm(WIDTH, eps=1e-6), nn.Parameter(1e-1 * torch.ones(WIDTH))
        self.expand, self.reduce = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        y = self.norm(self.layers(x).permute(0, 2, 3, 1))
        y = self.reduce(F.gelu(self.expand(y))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class SpectralNorm(Network):
    def make_layers(self) -> nn.Module:
        return parametrizations.spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))


class AttentionPooling(Network):  # one learned query, nn.MultiheadAttention
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def pool(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        pooled, _ = self.attention(self.query.repeat(x.shape[0], 1, 1), tokens, tokens)
        return pooled.squeeze(1)


class CoordConv(Network):  # two more channels with the position of each pixel
    def make_layers(self) -> nn.Module:
        return conv(WIDTH + 2, WIDTH)

    def body(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        places = torch.stack([rows, columns]).to(x).unsqueeze(0).expand(b, -1, -1, -1)
        return self.layers(torch.cat([x, places], 1))


class SpatialTransformer(Network):  # affine_grid and grid_sample
    def __init__(self, channels: int, classes: int, size: Size) -> None:
        super().__init__(channels, classes, size)
        self.locate = nn.Linear(channels * 16, 6)
        nn.init.normal_(self.locate.weight, std=0.01)
        self.locate.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.locate(F.adaptive_avg_pool2d(x, 4).flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.size()), align_corners=False)
        return super().forward(F.grid_sample(x, grid, align_corners=False))
