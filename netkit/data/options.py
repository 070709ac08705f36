"""Options for loading a data set: how it is read, and how its images are prepared and split."""

import math
from dataclasses import dataclass, fields
from typing import Any

from netkit.core.errors import CardError, UsageError, unknown_name
from netkit.core.model_card import MAX_SIDE, Input, ModelCard
from netkit.images.limits import MAX_FILE_BYTES, MAX_PIXELS

VAL_SPLIT = 0.2
MAX_UNREADABLE = 0.01
AUTO, SPLITS, CLASSES = LAYOUTS = ("auto", "splits", "classes")
READING = ("layout", "path_column", "label_column")  # the options on how a data set is read, which a model card records


@dataclass(frozen=True)
class Options:
    """How to read a data set, and how to prepare and split its images.

    `channels` (1: grey, 3: RGB) and `size` (height, width) in pixels are taken from the images if None. `resize` is as
    in model_card.Input. `mean` and `std` have one number per channel, for pixels in [0, 1], and are computed from the
    training images if empty. If the data set has no test images, the share `val_split` of each class is selected with
    `seed` for testing. `layout` says what the folders in a folder are: "splits", "classes", or "auto" to judge by their
    names. `path_column` and `label_column` name the columns of a table. `draft` is as in model_card.Input, for image
    files. Those that are unreadable, or over `max_bytes` or `max_pixels`, are skipped up to the share `max_unreadable`.
    Raises UsageError if options contradict each other.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    val_split: float = VAL_SPLIT
    seed: int = 0
    layout: str = AUTO
    path_column: str = "path"
    label_column: str = "label"
    max_unreadable: float = MAX_UNREADABLE
    draft: bool = True
    max_bytes: int = MAX_FILE_BYTES
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not 0 < self.val_split < 1:
            raise UsageError(f"--val-split {self.val_split:g}: must be above 0 and below 1")
        if not 0 <= self.max_unreadable <= 1:
            raise UsageError(f"--max-unreadable {self.max_unreadable:g}: must be from 0 to 1")
        if self.layout not in LAYOUTS:
            raise unknown_name("layout", self.layout, LAYOUTS)
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
                Input(1, height, width)
            except CardError as exc:
                raise UsageError(f"--image-size {height}x{width}: {exc}") from None
            if self.resize is not None and not max(self.size) <= self.resize <= MAX_SIDE:
                raise UsageError(
                    f"--resize {self.resize}: must be {max(self.size)} to {MAX_SIDE} pixels, because "
                    f"--image-size {height}x{width} is cropped from the resized image"
                )

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std, or None if they were not set."""
        return (self.mean, self.std) if self.mean else None

    @property
    def reading(self) -> dict[str, str]:
        """The options of READING that are not the defaults."""
        values = ((field, getattr(self, field.name)) for field in fields(self) if field.name in READING)
        return {field.name: value for field, value in values if value != field.default}

    @classmethod
    def from_card(cls, card: ModelCard) -> "Options":
        """Return the options with which the data set of a trained model was loaded.

        They accept any number of unreadable images, because the hash of the data set tells whether it is the same.
        """
        origin = card.origin
        reading: dict[str, Any] = {name: value for name, value in origin.data_options.items() if name in READING}
        return cls(
            card.channels,
            (card.height, card.width),
            card.resize,
            val_split=origin.val_split or VAL_SPLIT,
            seed=origin.seed,
            max_unreadable=1,
            draft=card.draft,
            max_bytes=origin.max_bytes,
            max_pixels=origin.max_pixels,
            **reading,
        )


DEFAULT = Options()
