"""Normalization of uint8 pixels, the step before every network; shared by training, evaluation and export."""

import torch
from torch import Tensor, nn

from netkit.core.model_card import ModelCard


class FromPixels(nn.Module):
    """Normalize pixels, then apply a network: images (N, C, H, W) uint8 -> logits (N, classes).

    Pixels are normalized with the card's mean and std: (pixel / 255 - mean) / std, computed as pixel * scale + shift.
    `scale` and `shift` (C, 1, 1) are computed from the card and are not part of the state dict.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.net = net
        mean = torch.tensor(card.mean, dtype=torch.float64).view(-1, 1, 1)
        std = torch.tensor(card.std, dtype=torch.float64).view(-1, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, images_u8: Tensor) -> Tensor:
        x = images_u8.to(self.scale.dtype) * self.scale + self.shift  # (N, C, H, W)
        return self.net(x)  # (N, classes)
