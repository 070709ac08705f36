"""Options for loading a data set: how its images are prepared and split."""

from dataclasses import dataclass

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard

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
            raise UsageError(f"--val-split must be above 0 and below 1, not {self.val_split}")
        if bool(self.mean) != bool(self.std) or len(self.mean) != len(self.std):
            raise UsageError("--mean and --std: pass both, with one number per channel, or neither")
        if self.resize is not None and self.size is None:
            raise UsageError("--resize needs --image-size, the size of the center crop")

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
