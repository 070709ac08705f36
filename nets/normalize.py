"""Normalization of uint8 pixels, the step before every network; shared by training, evaluation and export."""

import logging

import torch
from torch import Tensor, nn

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard

logger = logging.getLogger(__name__)


class FromPixels(nn.Module):
    """Normalize pixels, then apply a network: images (N, C, H, W) uint8 -> logits (N, classes).

    Pixels are normalized with the card's mean and std: (pixel / 255 - mean) / std, computed as pixel * scale + shift.
    `scale` and `shift` (C, 1, 1) are computed from the card and are not part of the state dict.

    In training mode, a network may return a tuple: its logits, and then the outputs of auxiliary heads. These are
    ignored. Raises UsageError for any other output that is not a tensor.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.net = net
        self.classes = len(card.labels)
        self._logged = False
        mean = torch.tensor(card.mean, dtype=torch.float64).view(-1, 1, 1)
        std = torch.tensor(card.std, dtype=torch.float64).view(-1, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, images_u8: Tensor) -> Tensor:
        x = images_u8.to(self.scale.dtype) * self.scale + self.shift  # (N, C, H, W)
        output = self.net(x)  # (N, classes)
        return output if isinstance(output, Tensor) else self._first(output, (len(x), self.classes))

    def _first(self, output: object, shape: tuple[int, int]) -> Tensor:
        """Return the first of several outputs, which must be logits of this shape."""
        outputs = output if isinstance(output, tuple | list) else ()
        first = next(iter(outputs), None)
        if not isinstance(first, Tensor) or first.shape != shape:
            raise UsageError(
                f"in training mode, the network returns a {type(output).__name__} that does not begin with logits "
                f"{shape}; return the logits alone, or a tuple with the logits first"
            )
        if not self._logged:
            self._logged = True
            logger.info("the network returns %s outputs in training mode; training uses the first", len(outputs))
        return first
