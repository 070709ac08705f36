"""The step before every net: uint8 pixels to normalised floats. Training, evaluation and export all go through it."""

import torch
from torch import Tensor, nn

from netkit.core.model_card import ModelCard


class FromPixels(nn.Module):
    """A net that takes pixels: (N, C, H, W) uint8 -> logits (N, classes), normalised with the card's mean and std.

    (pixel / 255 - mean) / std is computed as pixel * scale + shift. Both are constants of the card, not weights.
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
        logits: Tensor = self.net(images_u8.to(self.scale.dtype) * self.scale + self.shift)
        return logits
