"""Probes: a few test images with their logits, which a model carries so that it can be tested where it runs."""

import base64
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core import schema
from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard

KEY = "netkit.probes"  # in the ONNX metadata
VERSION = 1  # of the JSON format
MAX_PROBES = 16
MAX_JSON_BYTES = 64 * 1024  # a single probe may take more


@dataclass(frozen=True)
class Probes:
    """Images uint8 (N, channels, height, width), their logits float64 (N, classes), and the label of each image."""

    images_u8: NDArray[np.uint8]
    logits: NDArray[np.float64]
    labels: tuple[str, ...]

    def to_json(self) -> str:
        pixels = base64.b64encode(self.images_u8.tobytes()).decode()
        return json.dumps({"version": VERSION, **asdict(_Encoded(pixels, self.logits.tolist(), self.labels))})

    @classmethod
    def from_json(cls, text: str, card: ModelCard) -> "Probes":
        """The probes that `to_json` wrote, for a model with that card.

        Raises ModelError if they are malformed, do not fit the card, or are too many or too large.
        """
        encoded = schema.load(_Encoded, text, what="the probe set", error=ModelError, version=VERSION)
        count = len(encoded.labels)
        try:
            pixels = base64.b64decode(encoded.images, validate=True)
            images_u8 = np.frombuffer(pixels, np.uint8).reshape(count, card.channels, card.height, card.width)
            logits = np.array(encoded.logits, np.float64).reshape(count, len(card.labels))
        except ValueError as exc:
            raise ModelError(f"the probes do not fit the model's card: {exc}") from None
        if not count:
            raise ModelError("the probe set is empty")
        if count > MAX_PROBES or (count > 1 and len(text) > MAX_JSON_BYTES):
            raise ModelError(
                f"{count} probes in {len(text):,} bytes: a model carries at most {MAX_PROBES} in {MAX_JSON_BYTES:,}"
            )
        return cls(images_u8, logits, encoded.labels)


@dataclass(frozen=True)
class _Encoded:
    """The probes as JSON holds them: `images` are the pixels in base64."""

    images: str
    logits: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
