"""Mean brightness of the images, and a warning if it is far from that of the training images."""

import logging
from dataclasses import dataclass, field

from netkit.core.model_card import ModelCard

logger = logging.getLogger(__name__)

MAX_DIFFERENCE = 0.25  # between the mean brightness of the images and that of the training images, each from 0 to 1
CHECKED_IMAGES = 1000  # at the start of a run


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
        """End the run: no more images follow."""


@dataclass
class BrightnessCheck(MeanBrightness):
    """Warns once if the first images are far brighter or darker than the training images.

    A check may last for several runs: each `finish` compares the images so far, until a warning or enough images.
    """

    card: ModelCard = field(kw_only=True)
    inverted: bool = field(kw_only=True)
    checked: bool = field(default=False, init=False)

    def update(self, images: int, level: float) -> None:
        super().update(images, level)
        if self.images >= CHECKED_IMAGES:
            self._check()
            self.checked = True

    def finish(self) -> None:
        if self.images:
            self._check()

    def _check(self) -> None:
        mean, expected = self.mean / 255, sum(self.card.mean) / len(self.card.mean)
        if not self.checked and abs(mean - expected) > MAX_DIFFERENCE:
            advice = "omit --invert" if self.inverted else "for dark ink on white pass --invert"
            logger.warning(
                "the mean brightness of the images is %.2f, but %.2f in training; %s",
                mean,
                expected,
                advice,
            )
            self.checked = True
