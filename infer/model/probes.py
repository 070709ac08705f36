"""Probes: a few test images with their logits in the metadata of a model, to verify it on any machine."""

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
MAX_JSON_BYTES = 64 * 1024  # does not apply to a single probe


@dataclass(frozen=True)
class Probes:
    """Images uint8 (N, channels, height, width), their logits float64 (N, classes), and their predicted labels."""

    images_u8: NDArray[np.uint8]
    logits: NDArray[np.float64]
    labels: tuple[str, ...]

    def to_json(self) -> str:
        pixels = base64.b64encode(self.images_u8.tobytes()).decode()
        return json.dumps({"version": VERSION, **asdict(_Encoded(pixels, self.logits.tolist(), self.labels))})

    @classmethod
    def from_json(cls, text: str, card: ModelCard) -> "Probes":
        """Read the probes that `to_json` wrote, for a model with `card`.

        Raises ModelError if they are malformed, do not fit the card, or are too many or too large.
        """
        encoded = schema.load(
            _Encoded, text, subject="the set of test images in the model", error=ModelError, version=VERSION
        )
        count = len(encoded.labels)
        try:
            pixels = base64.b64decode(encoded.images, validate=True)
            images_u8 = np.frombuffer(pixels, np.uint8).reshape(count, card.channels, card.height, card.width)
            logits = np.array(encoded.logits, np.float64).reshape(count, len(card.labels))
        except ValueError as exc:
            raise ModelError(f"the test images in the model do not fit its card: {exc}") from None
        if not count:
            raise ModelError("the model contains no test images")
        if count > MAX_PROBES or (count > 1 and len(text) > MAX_JSON_BYTES):
            raise ModelError(
                f"{count} test images in the model, in {len(text):,} bytes; "
                f"at most {MAX_PROBES} in {MAX_JSON_BYTES:,} bytes are allowed"
            )
        return cls(images_u8, logits, encoded.labels)


@dataclass(frozen=True)
class _Encoded:
    """The JSON form of the probes; `images` holds the pixels in base64."""

    images: str
    logits: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
