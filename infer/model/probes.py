"""Probes: a few real images with the logits that a model gives them, by which it proves itself wherever it runs."""

import base64
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core import schema
from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard

KEY = "netkit.probes"  # in ONNX metadata
MOST = 16
LARGEST = 64 * 1024  # bytes of JSON, but for a single image that takes more
VERSION = 1  # of the probes' form


@dataclass(frozen=True)
class Probes:
    """Images uint8 (N, channels, height, width), their logits float64 (N, classes), and the label of each by these."""

    images_u8: NDArray[np.uint8]
    logits: NDArray[np.float64]
    labels: tuple[str, ...]

    def to_json(self) -> str:
        pixels = base64.b64encode(self.images_u8.tobytes()).decode()
        return json.dumps({"version": VERSION, **asdict(_Encoded(pixels, self.logits.tolist(), self.labels))})

    @classmethod
    def from_json(cls, text: str, card: ModelCard) -> "Probes":
        """The probes that `to_json` wrote, for a model with that card; ModelError says what is wrong with others."""
        encoded = schema.load(_Encoded, text, what="the probe set", error=ModelError, version=VERSION)
        labels = encoded.labels
        try:
            pixels = base64.b64decode(encoded.images, validate=True)
            images_u8 = np.frombuffer(pixels, np.uint8).reshape(len(labels), card.channels, card.height, card.width)
            logits = np.array(encoded.logits, np.float64).reshape(len(labels), len(card.labels))
        except ValueError as exc:
            raise ModelError(f"the probes do not fit the model's card: {exc}") from None
        if not labels:
            raise ModelError("the probe set is empty")
        if len(labels) > MOST or (len(labels) > 1 and len(text) > LARGEST):
            raise ModelError(
                f"{len(labels)} probes in {len(text):,} bytes: a model carries {MOST} in {LARGEST:,} at most"
            )
        return cls(images_u8, logits, labels)


@dataclass(frozen=True)
class _Encoded:
    """The probes as JSON has them: `images` are the pixels in base64."""

    images: str
    logits: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
