"""Brightness: how bright images are in the mean, and whether the model was trained on such as they."""

import logging
from dataclasses import dataclass, field

from netkit.core.model_card import ModelCard

logger = logging.getLogger(__name__)

FAR = 0.25  # of full brightness: how far the images' mean may lie from the card's before a warning
JUDGED = 1000  # images, of the first ones, by which that is judged


@dataclass
class Brightness:
    """The mean level of so many `images`, from 0 to 255."""

    images: int = 0
    mean: float = 0.0

    def see(self, images: int, level: float) -> None:
        """So many more, of that mean level."""
        if images:
            self.images += images
            self.mean += (level - self.mean) * images / self.images

    def end(self) -> None:
        """No more images come."""


@dataclass
class Judge(Brightness):
    """Warns, once, where the first images are far brighter or darker than those that the model was trained on."""

    card: ModelCard = field(kw_only=True)
    inverted: bool = field(kw_only=True)
    decided: bool = field(default=False, init=False)

    def see(self, images: int, level: float) -> None:
        """As above, and judge by them, once they are enough."""
        super().see(images, level)
        if self.images >= JUDGED:
            self._decide()

    def end(self) -> None:
        """As above: those that came have to do."""
        if self.images:
            self._decide()

    def _decide(self) -> None:
        mean, trained_on = self.mean / 255, sum(self.card.mean) / len(self.card.mean)
        if not self.decided and abs(mean - trained_on) > FAR:
            advice = "leave out --invert" if self.inverted else "for dark ink on white use --invert"
            logger.warning(
                "warning: the images' mean brightness is %.2f, the model was trained on %.2f; %s",
                mean, trained_on, advice,
            )  # fmt: skip
        self.decided = True
