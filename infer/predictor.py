"""Predictor: opens a model, and classifies paths or arrays of images with it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import UsageError
from netkit.core.runs import MODEL, choose
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file
from netkit.infer.model.verify import open_verified
from netkit.infer.output.prediction import Row, rows_of
from netkit.infer.pipeline.batches import predict
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.runtime.session import Session, open_session

PathOrStr = str | PathLike[str]


def open_model(path: Path | None, *, arch: str | None = None, device: str, verify: bool = True) -> Session:
    """Open the .onnx file at `path`, the one in the run folder of `arch`, or by default the newest in runs/.

    With `verify`, its certificate and probes are checked first. Raises UsageError if there is no such file, ModelError
    if it cannot be run or does not pass verification, DeviceError if the device cannot be used.
    """
    open_checked = open_verified if verify else open_session
    return open_checked(onnx_file.read(choose(MODEL, file=path, arch=arch)), device=device, threads=1)


@dataclass(frozen=True)
class Classifier:
    """The object that netkit.load returns. Call it with one path, with many paths, or with an array of images.

    Each input gives one Row. It has a `label` and its `probability` (`ranked` holds the `top_k` most probable labels),
    or a `status` other than "ok" and a `message`: a file that cannot be read raises no exception.
    """

    session: Session
    decoder: Decoder
    batch_size: int
    top_k: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.top_k < 1:
            raise UsageError(f"batch_size and top_k must be at least 1, not {self.batch_size} and {self.top_k}")

    def __repr__(self) -> str:
        return f"<Classifier {self.session.card.arch} on {self.session.provider}, labels {', '.join(self.labels):.80}>"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.session.card.labels

    @overload
    def __call__(self, images: PathOrStr) -> Row: ...  # type: ignore[overload-overlap]  # str is an Iterable[str]
    @overload
    def __call__(self, images: Iterable[PathOrStr] | NDArray[np.uint8]) -> list[Row]: ...

    def __call__(self, images: PathOrStr | Iterable[PathOrStr] | NDArray[np.uint8]) -> Row | list[Row]:
        """Classify one path, which returns a Row, or several paths or images, which return a list of Rows in order.

        Images are a uint8 array (N, height, width) or (N, height, width, channels) with 1, 3 or 4 channels, of any
        size. Raises TypeError or ValueError for other arrays, ModelError if the model fails.
        """
        if isinstance(images, np.ndarray):
            return list(self._rows(_check_images(images)))
        if isinstance(images, str | bytes | PathLike):
            return next(self._rows([_as_str(images)]))
        return list(self._rows([_as_str(path) for path in images]))

    def _rows(self, inputs: Sequence[str] | NDArray[np.uint8]) -> Iterator[Row]:
        batches = predict(
            self.session,
            inputs,
            decoder=self.decoder,
            batch_size=self.batch_size,
            workers=min(usable_cores(), math.ceil(len(inputs) / self.batch_size)) or 1,
            brightness=BrightnessCheck(card=self.session.card, inverted=self.decoder.invert),
        )
        for predictions in batches:
            yield from rows_of(predictions, self.labels, top_k=self.top_k)


def _as_str(path: PathOrStr) -> str:
    name = fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"paths must be str or PathLike, not {type(name).__name__}: decode them with os.fsdecode")
    return name


def _check_images(images: NDArray[np.generic]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8, from 0 to 255, not {images.dtype}")
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] in (1, 3, 4)):
        raise ValueError(
            "images must have the shape (N, height, width) or (N, height, width, channels) with 1, 3 or 4 channels, "
            f"not {images.shape}"
        )
    if 0 in images.shape[1:]:
        raise ValueError(f"images have no pixels: their shape is {images.shape}")
    return images.astype(np.uint8, copy=False)
