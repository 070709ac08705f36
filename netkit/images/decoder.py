"""Decoder: from an image file to the pixels that a network takes, or the reason why there are none.

Training and inference both use it, so they see the same pixels.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, TiffTags, UnidentifiedImageError

from netkit.core import remote
from netkit.core.atomic_io import READING
from netkit.core.errors import ImageError
from netkit.core.model_card import Input
from netkit.images import png
from netkit.images.limits import JPEG_START, MAX_HEADER_BYTES, BoundedFile, decoding_cost

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # the only ones that Pillow may try
FILE_ENDS = {png.SIGNATURE: b"IEND", JPEG_START: b"\xff\xd9", b"GIF8": b"\x3b"}  # by how files start
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 24_000_000  # limits.decoding_cost counts some pixels more than once
GREY_MODES = ("L", "LA", "1")


@dataclass(frozen=True)
class Decoder:
    """Decodes images to the size and channels of `input`.

    `invert` swaps dark and light. Files have at most `largest_file` bytes, and images `largest_image` pixels.
    """

    input: Input
    invert: bool = False
    largest_file: int = MAX_FILE_BYTES
    largest_image: int = MAX_PIXELS

    def __call__(self, image: str | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Decode a file, or convert pixels (height, width) or (height, width, channels), to uint8 (channels, h, w).

        EXIF orientation is applied, animations give their first frame, 16-bit grey is scaled to 8 bits, transparent
        pixels are put on black (on white with `invert`), and grey is ITU-R 601 luma. The image is then stretched, or
        scaled and cut, as described in model_card.Input.
        Raises ImageError, with a code, if the file cannot be decoded.
        """
        if not isinstance(image, str):
            pixels = image.squeeze(2) if image.shape[2:] == (1,) else image
            return self._fitted(self._on_background(Image.fromarray(pixels)))
        content = self.read(image)
        with _image_errors(content):
            return self._fitted(self._decoded(content))

    def grey_and_size(self, content: bytes) -> tuple[bool, tuple[int, int]]:
        """Decode the content of a file; return whether the image has no colours, and its height and width.

        Raises ImageError as decoding does.
        """
        with _image_errors(content):
            image = self._decoded(content)
            return image.mode in GREY_MODES, (image.height, image.width)

    def read(self, path: str) -> bytes:
        """Return the content of a file. Raises ImageError if it cannot be read, is empty or is too large."""
        if remote.is_remote(path):
            return remote.read(path, largest=self.largest_file)
        try:
            file = os.open(path, READING)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise ImageError("unreadable", "not a regular file")
                if status.st_size > self.largest_file:
                    raise ImageError("too-large", f"{status.st_size:,} bytes, over the limit of {self.largest_file:,}")
                if not (content := _read_bytes(file, status.st_size)):
                    raise ImageError("not-an-image", "an empty file")
                return content
            finally:
                os.close(file)
        except FileNotFoundError:
            raise ImageError("vanished", "no such file") from None
        except (OSError, ValueError) as exc:
            raise ImageError("unreadable", f"cannot be read: {getattr(exc, 'strerror', None) or exc}") from None

    def _decoded(self, content: bytes) -> Image.Image:
        if content.startswith(png.SIGNATURE) and (image := png.plain_image(content, max_pixels=self.largest_image)):
            return image
        return self._on_background(_eight_bit(_upright(_load(content, self.largest_image))))

    def _on_background(self, image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return image
        if image.mode not in ("RGBA", "LA"):
            image = image.convert("RGBA")
        # in place, since two copies of a large image exceed the memory limit
        image.paste("white" if self.invert else "black", mask=ImageChops.invert(image.getchannel("A")))
        return image

    def _fitted(self, image: Image.Image) -> NDArray[np.uint8]:
        """Convert to the size and channels of `input`."""
        spec = self.input
        mode = "L" if spec.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        width, height = spec.scaled(*image.size)
        if spec.resize is not None and width * height > self.largest_image:
            raise ImageError(
                "too-large", f"{width}x{height} when scaled, over the limit of {self.largest_image:,} pixels"
            )
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.size != (spec.width, spec.height):
            left, top = round((width - spec.width) / 2), round((height - spec.height) / 2)
            image = image.crop((left, top, left + spec.width, top + spec.height))
        pixels = np.frombuffer(image.tobytes(), np.uint8)
        if self.invert:
            pixels = 255 - pixels
        return pixels.reshape(spec.height, spec.width, spec.channels).transpose(2, 0, 1)


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Suppress Pillow's warnings, in all threads: what it warns of is either decoded or also raises an exception."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def _image_errors(content: bytes) -> Iterator[None]:
    """Raise ImageError for any exception in the block, which decodes `content`."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too-large", "not enough memory to decode it") from None
    except Exception as exc:  # Pillow's decoders raise struct.error, AttributeError and more
        raise ImageError(_error_code(content, default="damaged"), f"cannot be decoded: {exc}") from None


def _error_code(content: bytes, *, default: str) -> str:
    """Return "truncated" or "damaged" if the format is known by its first bytes: its last bytes tell which."""
    for start, end in FILE_ENDS.items():
        if content.startswith(start):
            return "damaged" if end in content[-64:] else "truncated"
    return default


def _read_bytes(file: int, size: int) -> bytes:
    """Read `size` bytes, or fewer if the file has become shorter."""
    content = os.read(file, size)
    while len(content) < size and (more := os.read(file, size - len(content))):
        content += more
    return content


def _load(content: bytes, max_pixels: int) -> Image.Image:
    try:
        file = BoundedFile(content, max_pixels=max_pixels)
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        code = _error_code(content, default="not-an-image")
        raise ImageError(code, f"cannot be read as one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError("too-large", f"over the limit of {max_pixels:,} pixels") from None
    cost = decoding_cost(image, content)
    if cost > max_pixels:
        counted = f", which count as {cost:,}" if cost > image.width * image.height else ""
        raise ImageError("too-large", f"{image.width}x{image.height}{counted}, over the limit of {max_pixels:,} pixels")
    if len(image.info.get("exif", b"")) > MAX_HEADER_BYTES:
        raise ImageError("too-large", f"EXIF over the limit of {MAX_HEADER_BYTES:,} bytes")
    if image.format == "TIFF":
        for folder in TiffTags.TAGS_V2_GROUPS:  # not needed, but Pillow would read them, however long they are
            image.getexif().pop(folder, None)
    file.end_header()
    image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    if ExifTags.Base.Orientation not in image.getexif():  # Pillow keeps the result
        return image
    from PIL import ImageOps  # takes 3 ms to import

    for field in ("exif", "Raw profile type exif"):  # exif_transpose would write them again, and fail on odd values
        image.info.pop(field, None)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, which convert("L") would clip. Raises ImageError for 32-bit pixels."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.uint16)
        rounded_up = levels % 257 > 128  # 65535 = 255 * 257
        levels //= 257  # in place, since copies of a large image exceed the memory limit
        levels += rounded_up
        return Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(
            "unsupported", f"pixels of 32 bits (mode {image.mode}) have no agreed white; save it as 8 or 16"
        )
    return image
