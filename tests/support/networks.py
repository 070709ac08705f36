"""Networks for tests, and a reference for batch norm with ReLU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WrongInExport(nn.Module):
    """The output of `net`, but 0.1 % larger during export."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y * 1.001 if torch.compiler.is_exporting() else y


def randomize_norms(net: nn.Module) -> nn.Module:
    """Convert the network to float64, with random batch norm parameters and statistics, as after training."""
    for name, values in net.double().state_dict().items():
        if values.dim() == 1:
            low, high = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.5, 0.5)
            values.uniform_(low, high)
    return net


def norm_relu(x: Tensor, w: list[Tensor], training: bool) -> Tensor:
    """Apply batch norm and ReLU; `w` is weight, bias, running mean, running variance, num_batches_tracked."""
    mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if training else (w[2], w[3])
    scale = w[0] / torch.sqrt(var + 1e-5)
    return F.relu((x - mean[:, None, None]) * scale[:, None, None] + w[1][:, None, None])


class Transformer(nn.Module):
    """A vision transformer with one layer: (N, 1, 28, 28) -> (N, 10), with patches of 7x7 pixels and 4 heads."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, width, 7, 7), nn.Linear(width, 10)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)  # (N, 16, width)
        heads = self.queries_keys_values(self.attention_norm(x)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads)  # (N, 4, 16, width / 4)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        logits: Tensor = self.head((x + self.mlp(self.norm(x))).mean(1))
        return logits


class OutlierFeature(nn.Module):
    """Two wide convolutions, and a linear layer with one input 10,000 times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()
        )
        self.hidden, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.register_buffer("scale", torch.ones(64).index_fill(0, torch.tensor([0]), 10_000))
        self.hidden.weight.data[:, 0] /= 10_000

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolutions(images).mean((2, 3)) * self.scale
        logits: Tensor = self.head(self.hidden(features).relu())
        return logits


class OneWideKernel(nn.Module):
    """A convolution as large as the image, whose one input channel is too few for int8, and two small linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.hidden, self.head = nn.Conv2d(1, 256, 28), nn.Linear(256, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.kernel(images).relu().flatten(1)).relu())
        return logits
