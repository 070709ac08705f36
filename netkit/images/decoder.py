"""Decode image files to the pixels that a network takes. Training and inference use the same decoder."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from netkit.core import remote
from netkit.core.atomic_io import READ_FLAGS
from netkit.core.errors import ImageError
from netkit.core.model_card import Input
from netkit.images import formats, jpeg, png, tiff
from netkit.images.limits import MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_PIXELS, BoundedFile, check_cost, decoding_cost

FILE_ENDS = {png.SIGNATURE: b"IEND", jpeg.START: b"\xff\xd9", b"GIF8": b"\x3b"}  # first bytes -> last bytes
SCALED_SHARE = 4  # a scaled image of up to a quarter of the limit on pixels fits in memory beside the original
GREY_MODES = ("L", "LA", "1")


@dataclass(frozen=True)
class Decoder:
    """Decodes images to the size and channels of `input`.

    `invert` swaps dark and light. Files larger than `max_bytes` and images larger than `max_pixels` are rejected.
    """

    input: Input
    invert: bool = False
    max_bytes: int = MAX_FILE_BYTES
    max_pixels: int = MAX_PIXELS

    def __call__(self, image: str | bytes | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Decode a file or its content, or convert an image or pixels (height, width[, channels]), to uint8 (c, h, w).

        EXIF orientation is applied, only the first frame of an animation is used, 16-bit grey is scaled to 8 bits,
        transparent pixels are composited over black (over white with `invert`), and grey is ITU-R 601 luma. Then the
        image is resized as described in model_card.Input.
        Raises ImageError if the file cannot be decoded.
        """
        if isinstance(image, Image.Image):
            return self._convert(image)
        if isinstance(image, np.ndarray):
            pixels = image.squeeze(2) if image.shape[2:] == (1,) else image
            return self._fit(self._composite(Image.fromarray(pixels)))
        content = image if isinstance(image, bytes) else self.read(image)
        if len(content) > self.max_bytes:
            raise ImageError("too-large", f"{len(content):,} bytes, over the limit of {self.max_bytes:,}")
        with _image_errors(content):
            return self._fit(self._decode(content))

    def grey_and_size(self, content: bytes) -> tuple[bool, tuple[int, int]]:
        """Decode the content of a file; return whether the image is grey, and its height and width.

        Raises ImageError if the file cannot be decoded.
        """
        with _image_errors(content):
            image = self._decode(content)
            return image.mode in GREY_MODES, (image.height, image.width)

    def read(self, path: str) -> bytes:
        """Return the content of a file. Raises ImageError if it cannot be read, is empty or is too large."""
        path = remote.local_path(path)
        if remote.is_remote(path):
            return remote.read(path, max_bytes=self.max_bytes)
        try:
            fd = os.open(path, READ_FLAGS)
            try:
                status = os.fstat(fd)
                if stat.S_ISDIR(status.st_mode):
                    raise ImageError("unreadable", "is a folder; pass it as an argument, or list the files in it")
                if not stat.S_ISREG(status.st_mode):
                    raise ImageError("unreadable", "is a pipe or a device, not a file")
                if status.st_size > self.max_bytes:
                    raise ImageError(
                        "too-large",
                        f"{status.st_size:,} bytes, over the limit of {self.max_bytes:,}; raise --max-bytes",
                    )
                if not (content := _read_bytes(fd, status.st_size)):
                    raise ImageError("not-an-image", "the file is empty")
                return content
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise ImageError("not-found", "no such file") from None
        except ValueError as exc:  # raised by os.open for the path
            cause = "the path contains a NUL byte" if "\0" in path else f"the path is not valid: {exc}"
            raise ImageError("unreadable", f"cannot be read: {cause}") from None
        except OSError as exc:
            raise ImageError("unreadable", f"cannot be read: {exc.strerror or exc}") from None

    def _decode(self, content: bytes) -> Image.Image:
        if not content:
            raise ImageError("not-an-image", "no bytes; a file object is read from its current position")
        if content.startswith(png.SIGNATURE):
            chunks = png.needed_chunks(content)
            if image := png.plain_image(chunks, max_pixels=self.max_pixels):
                return image
            content = b"".join([png.SIGNATURE, *(chunk for _, chunk in chunks)])
        return self._composite(_to_8_bit(_apply_orientation(self._load(content))))

    def _load(self, content: bytes) -> Image.Image:
        file = BoundedFile(content, max_pixels=self.max_pixels)
        try:
            image = Image.open(file, formats=formats.FORMATS)
        except UnidentifiedImageError:
            raise formats.foreign_kind(content) or formats.cause(file) from None
        except Image.DecompressionBombError as exc:
            raise ImageError("too-large", f"{str(exc).partition(',')[0]}; scale it down") from None
        exif_bytes = len(image.info.get("exif", b""))
        if exif_bytes > MAX_HEADER_BYTES:
            raise ImageError(
                "too-large",
                f"EXIF of {exif_bytes:,} bytes, over the limit of {MAX_HEADER_BYTES:,}; save it without EXIF",
            )
        if image.format == "TIFF":
            tiff.check(image)
        scale = jpeg.draft_scale(image, self.input) if self.input.draft and image.format in ("JPEG", "MPO") else 1
        check_cost(image.size, decoding_cost(image, file, scale=scale), max_pixels=self.max_pixels)
        file.end_header()
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        with tiff.silent_libtiff() if image.format == "TIFF" else nullcontext():
            image.load()
        return image

    def _convert(self, image: Image.Image) -> NDArray[np.uint8]:
        with _image_errors(b""):
            copied = image.copy()  # the steps below change it in place
            copied.format = image.format
            return self._fit(self._composite(_to_8_bit(_apply_orientation(copied))))

    def _composite(self, image: Image.Image) -> Image.Image:
        """Composite transparent pixels over black, or over white with `invert`."""
        if not image.has_transparency_data:
            return image
        if image.mode not in ("RGBA", "LA"):
            image = image.convert("RGBA")
        # in place, because two copies of a large image exceed the memory limit
        image.paste("white" if self.invert else "black", mask=ImageChops.invert(image.getchannel("A")))
        return image

    def _fit(self, image: Image.Image) -> NDArray[np.uint8]:
        """Convert an image to the size and channels of `input`."""
        spec = self.input
        mode = "L" if spec.channels == 1 else "RGB"
        scaled_mode = "L" if image.mode in GREY_MODES else mode  # grey takes less memory, and its colors are equal
        if image.mode != scaled_mode:
            image = image.convert(scaled_mode)
        width, height = spec.scaled(*image.size)
        if spec.resize is not None and width * height > self.max_pixels // SCALED_SHARE:
            raise ImageError(
                "too-large",
                f"{width}x{height} pixels when scaled, over the limit of {self.max_pixels // SCALED_SHARE:,}, "
                f"1/{SCALED_SHARE} of --max-pixels; raise it",
            )
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.size != (spec.width, spec.height):
            left, top = round((width - spec.width) / 2), round((height - spec.height) / 2)
            image = image.crop((left, top, left + spec.width, top + spec.height))
        if image.mode != mode:
            image = image.convert(mode)
        pixels = np.frombuffer(image.tobytes(), np.uint8)
        if self.invert:
            pixels = 255 - pixels
        return pixels.reshape(spec.height, spec.width, spec.channels).transpose(2, 0, 1)


@contextmanager
def suppress_pillow_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings in all threads. If a file cannot be decoded, Pillow also raises an exception."""
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
    except UnidentifiedImageError:
        raise formats.foreign_kind(content) or formats.unknown_kind(content) from None
    except MemoryError:
        raise ImageError("too-large", "not enough memory to decode it") from None
    except Exception as exc:  # Pillow's decoders also raise struct.error, AttributeError and others
        raise ImageError(_error_code(content, str(exc)), f"cannot be decoded: {exc}") from None


def _error_code(content: bytes, message: str) -> str:
    """Return "unsupported", "truncated" or "damaged", depending on Pillow's message and the last bytes."""
    if formats.UNSUPPORTED.search(message):
        return "unsupported"
    end = next((end for start, end in FILE_ENDS.items() if content.startswith(start)), None)
    if content.startswith(b"RIFF"):
        is_truncated = len(content) < 8 + int.from_bytes(content[4:8], "little")
    else:
        is_truncated = "file is truncated" in message if end is None else end not in content[-64:]
    return "truncated" if is_truncated else "damaged"


def _read_bytes(fd: int, size: int) -> bytes:
    """Read `size` bytes, or fewer if the file was truncated in the meantime."""
    content = os.read(fd, size)
    while len(content) < size and (more := os.read(fd, size - len(content))):
        content += more
    return content


def _apply_orientation(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    if ExifTags.Base.Orientation not in image.getexif():  # Pillow caches the result
        return image
    from PIL import ImageOps  # here, because the import takes 3 ms

    for field in ("exif", "Raw profile type exif"):  # exif_transpose would rewrite them, and fails on malformed values
        image.info.pop(field, None)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; convert("L") would clip it. Raises ImageError for 32-bit pixels."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.uint16)
        rounded_up = levels % 257 > 128  # 65535 = 255 * 257
        levels //= 257  # in place, because copies of a large image exceed the memory limit
        levels += rounded_up
        return Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(
            "unsupported",
            f"32-bit pixels (mode {image.mode}) have no defined white level; save the image with 8 or 16 bits",
        )
    return image
