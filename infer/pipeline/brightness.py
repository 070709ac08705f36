"""Brightness of the images, and a warning if it is far from that of the training images."""

import logging
from dataclasses import dataclass, field

from netkit.core.model_card import ModelCard

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 0.25  # of full brightness, between the mean of the images and that of the card
CHECKED_IMAGES = 1000  # the first ones


@dataclass
class MeanBrightness:
    """The running mean level, from 0 to 255, of `images` images."""

    images: int = 0
    mean: float = 0.0

    def update(self, images: int, level: float) -> None:
        """Add `images` images with the mean `level`."""
        if images:
            self.images += images
            self.mean += (level - self.mean) * images / self.images

    def finish(self) -> None:
        """No more images follow."""


@dataclass
class BrightnessCheck(MeanBrightness):
    """Warns once if the first images are far brighter or darker than those that the model was trained on."""

    card: ModelCard = field(kw_only=True)
    inverted: bool = field(kw_only=True)
    checked: bool = field(default=False, init=False)

    def update(self, images: int, level: float) -> None:
        super().update(images, level)
        if self.images >= CHECKED_IMAGES:
            self._check()

    def finish(self) -> None:
        if self.images:
            self._check()

    def _check(self) -> None:
        mean, expected = self.mean / 255, sum(self.card.mean) / len(self.card.mean)
        if not self.checked and abs(mean - expected) > MAX_DIFFERENCE:
            advice = "leave out --invert" if self.inverted else "for dark ink on white use --invert"
            logger.warning(
                "warning: the images' mean brightness is %.2f, the model was trained on %.2f; %s",
                mean,
                expected,
                advice,
            )
        self.checked = True
