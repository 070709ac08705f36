"""Networks for tests."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WrongInExport(nn.Module):
    """What `net` gives, but 0.1 % more while it is exported."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y * 1.001 if torch.compiler.is_exporting() else y


def lived_in(net: nn.Module) -> nn.Module:
    """The net in float64, its norms as after training: weights and variances off 1, biases and means off 0."""
    for name, values in net.double().state_dict().items():
        if values.dim() == 1:
            low, high = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.5, 0.5)
            values.uniform_(low, high)
    return net


def active(x: Tensor, w: list[Tensor], training: bool) -> Tensor:
    """Batch norm and ReLU from 5 tensors: weight, bias, running mean, running variance, count."""
    mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if training else (w[2], w[3])
    scale = w[0] / torch.sqrt(var + 1e-5)
    return F.relu((x - mean[:, None, None]) * scale[:, None, None] + w[1][:, None, None])
