"""ModelCard: the network, its input, its labels and its origin, as the weights and the model carry them.

Standard library only.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from netkit.core import schema
from netkit.core.errors import CardError

VERSION = 2  # of the JSON format
METADATA_KEY = "netkit.card"  # in the ONNX metadata and in the safetensors header
MAX_SIDE = 4096  # pixels; a larger side is a mistake or an attack


@dataclass(frozen=True)
class Input:
    """The images that a network takes: uint8 (channels, height, width), with 1 channel for grey or 3 for RGB.

    Without `resize`, an image is stretched to `height` x `width`. With it, the shorter side is scaled to `resize`
    pixels, and the centre of `height` x `width` is cropped, as torchvision's Resize and CenterCrop do. Scaling is
    bilinear and antialiased. Raises CardError for impossible values.
    """

    channels: int
    height: int
    width: int
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise CardError(f"a card's images have 1 or 3 channels, not {self.channels}")
        if not (0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE):
            raise CardError(f"a card's images have sides of 1 to {MAX_SIDE} pixels, not {self.height}x{self.width}")
        if self.resize is not None and not max(self.height, self.width) <= self.resize <= MAX_SIDE:
            raise CardError(
                f"a card's images of {self.height}x{self.width} cannot be cut from the middle of images with a shorter "
                f"side of {self.resize}"
            )

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """The width and height to which an image of `width` x `height` is scaled, before the centre is cropped."""
        if self.resize is None:
            return self.width, self.height
        shorter = min(width, height)
        return int(self.resize * width / shorter), int(self.resize * height / shorter)


@dataclass(frozen=True)
class Origin:
    """How a model was trained: enough to identify the data set and to train it again.

    `data_sha256` is the hash of the data set's unpacked files; `recipe` holds the fields of training.recipe.Recipe;
    `test_accuracy`, in [0, 1], is that of the saved weights in float32; `netkit` and `torch` are versions; `val_split`
    is the share of the images that `seed` selected for testing, or None if the data set has a test set.
    """

    data: str
    data_sha256: str
    recipe: Mapping[str, str | int | float | bool]
    seed: int
    test_accuracy: float
    netkit: str
    torch: str
    val_split: float | None = None


@dataclass(frozen=True)
class ModelCard:
    """What inference must know about the weights.

    `channels`, `height`, `width` and `resize` are those of `Input`; `mean` and `std` have one number a channel, for
    pixels scaled to [0, 1]; `labels` name the classes in the order of the logits. Raises CardError for impossible
    values.
    """

    arch: str
    labels: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: Origin
    resize: int | None = None

    @property
    def input(self) -> Input:
        return Input(self.channels, self.height, self.width, self.resize)

    def __post_init__(self) -> None:
        _ = self.input  # raises CardError for impossible values
        if self.origin.seed < 0:
            raise CardError(f"a card's seed is 0 or more, not {self.origin.seed}")
        if self.origin.val_split is not None and not 0 < self.origin.val_split < 1:
            raise CardError(f"a card's val_split lies between 0 and 1, not at {self.origin.val_split}")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise CardError(f"a card's labels are two or more different names, not {list(self.labels)}")
        if not all(self.labels) or any("\ud800" <= letter <= "\udfff" for letter in "".join(self.labels)):
            raise CardError(f"a card's labels are text that can be written, not {list(self.labels)}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise CardError(f"a card has one mean and std a channel, not {self.mean} and {self.std}")
        if not all(map(math.isfinite, self.mean)) or not all(0 < std < math.inf for std in self.std):
            raise CardError(f"a card's mean is finite and its std above 0, not {self.mean} and {self.std}")

    def to_json(self) -> str:
        fields = asdict(self)
        shape = {side: fields.pop(side) for side in ("channels", "height", "width", "resize")}
        return json.dumps({"version": VERSION, "input": shape, **fields})

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """The card that `to_json` wrote. Raises CardError with the field that is missing, mistyped or impossible."""
        what = "the model card"
        values = schema.parse(text, what=what, error=CardError, version=VERSION)
        shape = schema.load(_Shape, values, what=what, error=CardError).input
        return schema.load(cls, {**values, **asdict(shape)}, what=what, error=CardError)


@dataclass(frozen=True)
class _Shape:
    """The part of the card that JSON holds as an object of its own."""

    input: Input
