"""Predictor: opens a model, and classifies images with it: files, their content, or pixels."""

import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.core.runs import MODEL, choose
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.verify import open_verified, warn_if_failed
from netkit.infer.output.prediction import Row, rows_of
from netkit.infer.pipeline.batches import Input, predict
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.runtime.providers import NAMES
from netkit.infer.runtime.session import Session, open_session

logger = logging.getLogger(__name__)

PathOrStr = str | PathLike[str]
Content = bytes | bytearray | memoryview | BinaryIO  # of an image file
OneImage = PathOrStr | Content | Image.Image
SINGLE_TYPES = (str, PathLike, bytes, bytearray, memoryview, Image.Image)  # types of one image
CHANNELS = (1, 3, 4)  # grey, RGB and RGBA
ACCEPTED = "a path, bytes, a binary file object, a PIL.Image.Image or a uint8 array"


def open_model(path: Path | None, *, arch: str | None = None, device: str, verify: bool = True) -> Session:
    """Open the .onnx file at `path`, the one in the run folder of `arch`, or by default the newest in runs/.

    Its hashes and its outputs for the test images in it are checked; without `verify`, a failed check is logged as a
    warning. Raises UsageError if there is no such file, ModelError if it cannot be run or fails a check, DeviceError if
    the device cannot be used.
    """
    model = onnx_file.read(choose(MODEL, file=path, arch=arch))
    if verify:
        return open_verified(model, device=device, threads=1)
    session = open_session(model, device=device, threads=1)
    warn_if_failed(model, "using it anyway, because of --no-verify", session=session)
    return session


@dataclass(frozen=True)
class Classifier:
    """The object that netkit.load returns. Call it with one image, or with several.

    Each image gives one Row. It has a `label` and its `probability` (`ranked` holds the `top_k` most probable labels),
    or a `status` other than "ok" and a `message`: a file that cannot be read raises no exception.

    Several threads may call a Classifier at once. It can be pickled: the copy contains the model, and opens it again on
    `device` without a second verification.
    """

    session: Session
    decoder: Decoder
    batch_size: int
    top_k: int
    device: str
    brightness: BrightnessCheck = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.top_k < 1:
            raise UsageError(f"batch_size and top_k must be at least 1, not {self.batch_size} and {self.top_k}")
        brightness = BrightnessCheck(card=self.session.card, inverted=self.decoder.invert)
        object.__setattr__(self, "brightness", brightness)

    def __reduce__(self) -> tuple[Callable[..., "Classifier"], tuple[object, ...]]:
        return _reopen, (self.session.model, self.decoder, self.batch_size, self.top_k, self.device)

    def __repr__(self) -> str:
        device = NAMES[self.session.provider]
        return f"<Classifier {self.session.card.arch} on {device}, labels {', '.join(self.labels):.80}>"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.session.card.labels

    @overload
    def __call__(self, images: OneImage) -> Row: ...  # type: ignore[overload-overlap]  # str is an Iterable[str]
    @overload
    def __call__(self, images: NDArray[np.uint8]) -> Any: ...  # the shape decides whether this is a Row or a list
    @overload
    def __call__(self, images: Iterable[OneImage | NDArray[np.uint8]]) -> list[Row]: ...

    def __call__(
        self, images: OneImage | NDArray[np.uint8] | Iterable[OneImage | NDArray[np.uint8]]
    ) -> Row | list[Row]:
        """Classify one image, which gives a Row, or several, which give a list of Rows in order.

        One image is a path, the bytes of an image file, a binary file object, a PIL.Image.Image, or a uint8 array
        (height, width) or (height, width, channels) with 1, 3 or 4 channels. Several images are an iterable of these,
        or an array (N, height, width) or (N, height, width, channels). Images have any size.

        An array of three axes is one image if its last axis has the size 1, 3 or 4, otherwise N grey images. If that
        rule could be wrong, ValueError says what to pass: `images[None]` is one image and `images[..., None]` is N grey
        images.

        Warns once if the images are far brighter or darker than the training images. Raises TypeError or ValueError for
        other inputs, ModelError if the model fails.
        """
        if isinstance(images, np.ndarray):
            images = _check_array(images)
            if images.ndim == 2 or (images.ndim == 3 and _is_image(images, self.session.card)):
                return self._rows([images])[0]
        elif isinstance(images, SINGLE_TYPES) or hasattr(images, "read"):
            return self._rows([images])[0]
        elif not isinstance(images, Iterable):
            raise TypeError(f"images must be {ACCEPTED}, or several of them, not {type(images).__name__}")
        return self._rows(list(images))

    def _rows(self, images: Sequence[object]) -> list[Row]:
        batches = predict(
            self.session,
            map(_as_input, images),
            decoder=self.decoder,
            batch_size=self.batch_size,
            workers=min(usable_cores(), math.ceil(len(images) / self.batch_size)) or 1,
            brightness=self.brightness,
        )
        with closing(batches):
            return [row for predictions in batches for row in rows_of(predictions, self.labels, top_k=self.top_k)]


def _reopen(model: Model, decoder: Decoder, batch_size: int, top_k: int, device: str) -> Classifier:
    session = open_session(model, device=device, threads=1)
    return Classifier(session, decoder, batch_size=batch_size, top_k=top_k, device=device)


def _as_input(image: object) -> Input:
    """Convert one image to an input of `predict`. Raises TypeError or ValueError if it is none."""
    if isinstance(image, np.ndarray):
        pixels = _check_array(image)
        if not pixels.size:
            raise ValueError(f"the image has no pixels: its shape is {pixels.shape}")
        if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in CHANNELS):
            return pixels
        raise ValueError(f"an image must have the shape (height, width[, 1, 3 or 4 channels]), not {pixels.shape}")
    if isinstance(image, str | PathLike):
        return os.fsdecode(image)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"the image has no pixels: its size is {image.width}x{image.height}")
        with suppress(Exception):  # the decoder raises it again
            image.load()  # here, because two threads must not load the same image
        return image
    if isinstance(image, io.TextIOBase):
        raise TypeError("a file object must return bytes, not str: open the file in mode 'rb'")
    content = image.read() if hasattr(image, "read") else image
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise TypeError(f"an image must be {ACCEPTED}, not {type(content).__name__}")


def _check_array(images: NDArray[np.generic]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        fix = "scale the pixels to this range and convert them with astype(np.uint8)"
        raise TypeError(f"images must be uint8, from 0 to 255, not {images.dtype}; {fix}")
    if images.ndim not in (2, 3, 4) or (images.ndim == 4 and images.shape[3] not in CHANNELS):
        fix = "; pass images.transpose(0, 2, 3, 1)" if images.ndim == 4 and images.shape[1] in CHANNELS else ""
        raise ValueError(
            "images must have the shape (height, width), (height, width, channels), (N, height, width) or "
            f"(N, height, width, channels) with 1, 3 or 4 channels, not {images.shape}{fix}"
        )
    return images.astype(np.uint8, copy=False)


def _is_image(images: NDArray[np.uint8], card: ModelCard) -> bool:
    """Whether an array of three axes is one image, and not N grey images. Raises ValueError if that is unclear."""
    batch = "for N grey images pass images[..., None]"
    if images.shape[2] not in CHANNELS:
        if images.shape[2] == 2:
            raise ValueError(
                f"images of the shape {images.shape} may be one image with grey and alpha; {batch}, for one image pass "
                "a PIL.Image.Image"
            )
        if images.shape[0] == card.channels == 3:
            raise ValueError(
                f"images of the shape {images.shape} may be 3 grey images, or one image (channels, height, width); "
                f"{batch}, for one image pass images.transpose(1, 2, 0)"
            )
        return False
    if images.shape[1:] == (card.height, card.width):
        raise ValueError(
            f"images of the shape {images.shape} may be one image (height, width, channels), or "
            f"(N, height, width); for one image pass images[None], {batch}"
        )
    return True
