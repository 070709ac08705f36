"""What can be asked of a data set besides its name: how its images are made alike, and how they are split."""

from dataclasses import dataclass

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard

VAL_SPLIT = 0.2


@dataclass(frozen=True)
class Options:
    """`channels` (1: grey, 3: RGB) and `size` (height, width) in pixels; None: as the images have them.

    `resize` is that of model_card.Input. `mean` and `std`, one number a channel for pixels in [0, 1], are computed from
    the training images where they are empty. `val_split` is the share of each class that becomes test images where the
    data set has none; which ones is a function of `seed`.
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
    def given(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        return (self.mean, self.std) if self.mean else None

    @classmethod
    def of(cls, card: ModelCard) -> "Options":
        """Those by which the data set that a model was trained on becomes what it was."""
        split = card.origin.val_split or VAL_SPLIT
        return cls(card.channels, (card.height, card.width), card.resize, val_split=split, seed=card.origin.seed)


DEFAULT = Options()
