"""The readers of untrusted files, with valid examples, for fuzzing.

For any bytes a reader returns a result or raises a NetkitError; any other exception is a bug in netkit.
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from netkit.core.model_card import Input, ModelCard, Origin
from netkit.data import idx, image_files
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.infer.model import onnx_file
from netkit.nets.build import build
from netkit.nets.training import checkpoint
from tests.support.onnx_models import linear_model

ORIGIN = Origin("digits", "0" * 64, {"name": "fast", "epochs": 1, "lr": 0.1}, 0, 0.5, "0.1.0", "2.14.1")
CARD = ModelCard("residual", tuple("0123456789"), 1, 28, 28, (0.1307,), (0.3081,), ORIGIN)


@dataclass(frozen=True)
class Reader:
    """A function that reads bytes, and valid examples for it."""

    read: Callable[[bytes], object]
    examples: tuple[bytes, ...]


@contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def _card(content: bytes) -> object:
    return ModelCard.from_json(content.decode("utf-8", "surrogateescape"))


def _weights(content: bytes) -> object:
    with _file(content, "model.safetensors") as path:
        return checkpoint.load(path)


def _image(content: bytes) -> object:
    with _file(content, "image.png") as path, suppress_pillow_warnings():
        return Decoder(Input(1, 28, 28), max_pixels=1_000_000)(str(path))


def _idx(content: bytes) -> object:
    suffix = ".gz" if content.startswith(b"\x1f\x8b") else ""
    with _file(content, f"train-images-idx3-ubyte{suffix}") as path:
        return idx.read(path, dimensions=3)


def _table(content: bytes) -> object:
    with _file(content, "table.csv") as path:
        return image_files.list_images(path)


def _images() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    contents = []
    for image_format, mode in (
        ("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("BMP", "L"), ("GIF", "P"), ("TIFF", "RGB"), ("WEBP", "RGB"),
        ("PPM", "L"),
    ):  # fmt: skip
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, image_format)
        contents.append(file.getvalue())
    return tuple(contents)


READERS: Mapping[str, Reader] = {
    "card": Reader(_card, (CARD.to_json().encode(),)),
    "weights": Reader(_weights, (checkpoint.content(build(CARD), CARD),)),
    "model": Reader(lambda content: onnx_file.check(content, "m.onnx"), (linear_model(CARD).SerializeToString(),)),
    "image": Reader(_image, _images()),
    "idx": Reader(_idx, (np.array([0x0803, 2, 4, 4], ">u4").tobytes() + bytes(range(32)),)),
    "table": Reader(_table, (b"path,label,split\na.png,cat,train\nb.png,dog,test\n", b'path,label\n"a\n.png",1\n')),
}
