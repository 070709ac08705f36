"""The model card: architecture, input, labels and origin of a model, stored in its weights file and in its .onnx file.

Standard library only.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from netkit.core import schema
from netkit.core.errors import CardError

VERSION = 2  # of the JSON format
METADATA_KEY = "netkit.card"  # in the ONNX metadata and in the safetensors header
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_SIDE = 4096  # pixels; a card with a larger side is wrong or malicious


@dataclass(frozen=True)
class Input:
    """The images that a network takes: uint8 (channels, height, width), with 1 channel for grey or 3 for RGB.

    Without `resize`, an image is stretched to `height` x `width`. With it, the shorter side is scaled to `resize`
    pixels, and the image is cropped to its central `height` x `width` pixels, as torchvision's Resize and CenterCrop
    do. Scaling is bilinear and antialiased. With `draft`, large JPEG files are decoded at a reduced scale, of at least
    three times the size to which they are scaled; this is faster. Raises CardError for invalid values.
    """

    channels: int
    height: int
    width: int
    resize: int | None = None
    draft: bool = field(default=False, metadata=schema.ADDED_LATER, repr=False)  # the hash of a data set covers repr

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise CardError(f"images must have 1 or 3 channels, not {self.channels}")
        if not (0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE):
            raise CardError(f"image sides must be 1 to {MAX_SIDE} pixels, not {self.height}x{self.width}")
        if self.resize is not None and not max(self.height, self.width) <= self.resize <= MAX_SIDE:
            raise CardError(
                f"resize must be {max(self.height, self.width)} to {MAX_SIDE} pixels for a crop of "
                f"{self.height}x{self.width}, not {self.resize}"
            )

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to which an image of `width` x `height` is scaled before it is cropped."""
        if self.resize is None:
            return self.width, self.height
        shorter = min(width, height)
        return int(self.resize * width / shorter), int(self.resize * height / shorter)


@dataclass(frozen=True)
class Confidence:
    """How the logits of a network become probabilities: softmax(logits / `temperature`).

    `images` is the number of images that the temperature was fitted to; 0 if it was not fitted. Raises CardError for
    invalid values.
    """

    temperature: float = 1.0
    images: int = 0

    def __post_init__(self) -> None:
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise CardError(f"temperature must be {MIN_TEMPERATURE} to {MAX_TEMPERATURE}, not {self.temperature}")
        if self.images < 0:
            raise CardError(f"the number of images must be 0 or more, not {self.images}")


@dataclass(frozen=True)
class Origin:
    """How a model was trained: enough to identify the data set and to train it again.

    `data_sha256` is the hash of the data set's unpacked files. `recipe` holds the fields of training.recipe.Recipe.
    `test_accuracy`, in [0, 1], was measured with the saved weights in float32. `netkit` and `torch` are versions.
    `val_split` is the share of the images that was selected with `seed` for testing, or None if the data set has its
    own test images. `validated_on_test` says that choices during training were made on the test images.
    `data_options` are the fields of data.options.Options that say how the data set is read, unless they are defaults.
    Image files over `max_bytes` or `max_pixels` were skipped.
    """

    data: str
    data_sha256: str
    recipe: Mapping[str, str | int | float | bool]
    seed: int
    test_accuracy: float
    netkit: str
    torch: str
    val_split: float | None = None
    validated_on_test: bool = field(default=False, metadata=schema.ADDED_LATER)
    data_options: Mapping[str, str] = field(default_factory=dict, metadata=schema.ADDED_LATER)
    max_bytes: int = field(default=64 * 2**20, metadata=schema.ADDED_LATER)
    max_pixels: int = field(default=24_000_000, metadata=schema.ADDED_LATER)  # the limit of version 0.1


@dataclass(frozen=True)
class ModelCard:
    """The facts about a model that inference needs.

    `channels`, `height`, `width`, `resize` and `draft` are the fields of `Input`. `mean` and `std` have one number
    per channel, for pixels in [0, 1]. `labels` are the class names in the order of the logits. Raises CardError for
    invalid values.
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
    draft: bool = False
    confidence: Confidence = field(default=Confidence(), metadata=schema.ADDED_LATER)

    @property
    def input(self) -> Input:
        return Input(self.channels, self.height, self.width, self.resize, self.draft)

    def __post_init__(self) -> None:
        _ = self.input  # raises CardError for invalid values
        if self.origin.seed < 0:
            raise CardError(f"the seed must be 0 or more, not {self.origin.seed}")
        if self.origin.val_split is not None and not 0 < self.origin.val_split < 1:
            raise CardError(f"val_split must be above 0 and below 1, not {self.origin.val_split}")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise CardError(f"there must be at least two labels, all different, not {list(self.labels)}")
        if not all(self.labels) or any("\ud800" <= character <= "\udfff" for character in "".join(self.labels)):
            raise CardError(f"labels must be valid Unicode text and not empty, not {list(self.labels)}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise CardError(f"mean and std must have one number per channel, not {self.mean} and {self.std}")
        if not all(map(math.isfinite, self.mean)) or not all(0 < std < math.inf for std in self.std):
            raise CardError(f"mean must be finite and std must be positive, not {self.mean} and {self.std}")

    def to_json(self) -> str:
        fields = asdict(self)
        input_fields = {name: fields.pop(name) for name in ("channels", "height", "width", "resize", "draft")}
        return json.dumps({"version": VERSION, "input": input_fields, **fields})

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Read a card that `to_json` wrote. Raises CardError if a field is missing, has a wrong type or is invalid."""
        subject = "the model card"
        values = schema.parse(text, subject=subject, error=CardError, version=VERSION)
        input_spec = schema.load(_InputField, values, subject=subject, error=CardError).input
        return schema.load(cls, {**values, **asdict(input_spec)}, subject=subject, error=CardError)


@dataclass(frozen=True)
class _InputField:
    """The field `input`, which is a nested object in JSON only."""

    input: Input
