"""Options for loading a data set: how its images are prepared and split."""

import math
from dataclasses import dataclass

from netkit.core.errors import CardError, UsageError
from netkit.core.model_card import Input, ModelCard

VAL_SPLIT = 0.2


@dataclass(frozen=True)
class Options:
    """How to prepare and split the images of a data set.

    `channels` (1: grey, 3: RGB) and `size` (height, width) in pixels are taken from the images if None. `resize` is as
    in model_card.Input. `mean` and `std` have one number per channel, for pixels in [0, 1], and are computed from the
    training images if empty. If the data set has no test images, the share `val_split` of each class is selected with
    `seed` for testing. Raises UsageError if options contradict each other.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    val_split: float = VAL_SPLIT
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.val_split < 1:
            raise UsageError(f"--val-split must be between 0 and 1, not {self.val_split}")
        if self.channels not in (None, 1, 3):
            raise UsageError(f"--channels {self.channels}: must be 1 (grey) or 3 (RGB)")
        if bool(self.mean) != bool(self.std):
            raise UsageError(f"--{'mean' if self.mean else 'std'} needs --{'std' if self.mean else 'mean'}; pass both")
        if len(self.mean) != len(self.std):
            lengths = f"{len(self.mean)} and {len(self.std)}"
            raise UsageError(f"--mean and --std have different lengths, {lengths}; pass one number per channel")
        for mean, std in zip(self.mean, self.std, strict=True):
            if not 0 <= mean <= 1:
                raise UsageError(f"--mean {mean:g}: must be 0 to 1, as pixels are; divide a mean of 0 to 255 by 255")
            if not 0 < std < math.inf:
                raise UsageError(f"--std {std:g}: must be above 0 and finite")
        if self.resize is not None and self.size is None:
            raise UsageError("--resize needs --image-size, the size of the center crop")
        if self.size is not None:
            height, width = self.size
            try:
                Input(1, height, width, self.resize)
            except CardError as exc:
                raise UsageError(f"--image-size {height}x{width}: {exc}") from None

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std, or None if they were not set."""
        return (self.mean, self.std) if self.mean else None

    @classmethod
    def from_card(cls, card: ModelCard) -> "Options":
        """Return the options with which the data set of a trained model was loaded."""
        split = card.origin.val_split or VAL_SPLIT
        return cls(card.channels, (card.height, card.width), card.resize, val_split=split, seed=card.origin.seed)


DEFAULT = Options()
