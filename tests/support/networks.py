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
