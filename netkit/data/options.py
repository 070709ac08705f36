"""Options for loading a data set: how its images are prepared and split."""

from dataclasses import dataclass

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard

VAL_SPLIT = 0.2


@dataclass(frozen=True)
class Options:
    """How to prepare and split the images of a data set.

    `channels` (1: grey, 3: RGB) and `size` (height, width) in pixels are those of the images themselves if None;
    `resize` is as in model_card.Input. `mean` and `std` hold one number a channel, for pixels in [0, 1], and are
    computed from the training images if empty. `val_split` is the share of each class that is drawn for testing, by
    `seed`, if the data set has no test images. Raises UsageError if options contradict each other.
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
            raise UsageError(f"--val-split lies between 0 and 1, not at {self.val_split}")
        if bool(self.mean) != bool(self.std) or len(self.mean) != len(self.std):
            raise UsageError("--mean and --std: give both, one number a channel, or neither")
        if self.resize is not None and self.size is None:
            raise UsageError("--resize needs --image-size, the size to cut from the middle")

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation, if they were set."""
        return (self.mean, self.std) if self.mean else None

    @classmethod
    def of(cls, card: ModelCard) -> "Options":
        """Return the options with which the data set of a trained model was loaded."""
        split = card.origin.val_split or VAL_SPLIT
        return cls(card.channels, (card.height, card.width), card.resize, val_split=split, seed=card.origin.seed)


DEFAULT = Options()
