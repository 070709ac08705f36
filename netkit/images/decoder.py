"""From a path to pixels: decode the file into what a net takes, or say why not. Training and inference both go here."""

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
from netkit.images.limits import LARGEST_HEADER, Bounded, weight

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # Pillow's names; nothing else is tried
ENDS = {png.SIGNATURE: b"IEND", b"\xff\xd8\xff": b"\xff\xd9", b"GIF8": b"\x3b"}  # start and end of such files
LARGEST_FILE = 64 * 2**20  # bytes
LARGEST_IMAGE = 24_000_000  # pixels; see netkit.images.limits for those that count more than once
PIECE = 2**20  # pixels
GREY = ("L", "LA", "1")  # Pillow's modes
TURN = Image.Transpose
UPRIGHT = {  # EXIF's orientation: what sets the image upright
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_90,
}


@dataclass(frozen=True)
class Decoder:
    """Turns files into what `input` asks for. `invert` swaps dark and light; the limits are in bytes and in pixels."""

    input: Input
    invert: bool = False
    largest_file: int = LARGEST_FILE
    largest_image: int = LARGEST_IMAGE

    def __call__(self, image: str | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image in a file, or of levels (height, width) or (height, width, channels): uint8 (channels, h, w).

        Orientation follows EXIF, the first frame stands for all, 16-bit grey is scaled to 8, alpha lies on black (on
        white with `invert`), grey is ITU-R 601 luma; then the image is stretched or cut to size as Input has it. Raises
        ImageError with a code where there are no pixels to be had.
        """
        if not isinstance(image, str):
            levels = Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image)
            return self._fitted(self._on_background(levels))
        content = self.read(image)
        with _faults_of(content):
            return self._fitted(self._image(content))

    def grey_and_size(self, content: bytes) -> tuple[bool, tuple[int, int]]:
        """Of the image in a file's bytes, decoded whole: whether it has no colours, and its height and width, upright.

        Raises ImageError as decoding does.
        """
        with _faults_of(content):
            image = self._image(content)
            return image.mode in GREY, (image.height, image.width)

    def read(self, path: str) -> bytes:
        """A file's bytes; ImageError where it has none, or too many."""
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
                if not (content := _exactly(file, status.st_size)):
                    raise ImageError("not-an-image", "an empty file")
                return content
            finally:
                os.close(file)
        except FileNotFoundError:
            raise ImageError("vanished", "no such file") from None
        except (OSError, ValueError) as fault:
            raise ImageError("unreadable", f"cannot be read: {getattr(fault, 'strerror', None) or fault}") from None

    def _image(self, content: bytes) -> Image.Image:
        image = png.plain_image(content, largest=self.largest_image) if content.startswith(png.SIGNATURE) else None
        return image or self._on_background(_eight_bit(_upright(_open(content, self.largest_image))))

    def _on_background(self, image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return image
        if image.mode not in ("RGBA", "LA"):
            image = image.convert("RGBA")
        # into the image itself: a large one does not fit twice
        image.paste("white" if self.invert else "black", mask=ImageChops.invert(image.getchannel("A")))
        return image

    def _fitted(self, image: Image.Image) -> NDArray[np.uint8]:
        """With the size and the number of channels that are asked for."""
        wanted = self.input
        mode = "L" if wanted.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        width, height = wanted.scaled(*image.size)
        if wanted.resize is not None and width * height > self.largest_image:
            raise ImageError(
                "too-large", f"{width}x{height} when scaled, over the limit of {self.largest_image:,} pixels"
            )
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.size != (wanted.width, wanted.height):
            left, top = round((width - wanted.width) / 2), round((height - wanted.height) / 2)
            image = image.crop((left, top, left + wanted.width, top + wanted.height))
        pixels = np.frombuffer(image.tobytes(), np.uint8)
        if self.invert:
            pixels = 255 - pixels
        return pixels.reshape(wanted.height, wanted.width, wanted.channels).transpose(2, 0, 1)


@contextmanager
def _faults_of(content: bytes) -> Iterator[None]:
    """Inside, whatever goes wrong with the image in `content` is raised as ImageError."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too-large", "not enough memory to decode it") from None
    except Exception as fault:  # Pillow's decoders raise whatever comes: struct.error, AttributeError, ...
        raise ImageError(_fault_code(content, otherwise="damaged"), f"cannot be decoded: {fault}") from None


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Inside, in all threads: what Pillow only warns of, it either decodes or raises as well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _exactly(file: int, size: int) -> bytes:
    """`size` bytes, or fewer where the file has become shorter."""
    content = os.read(file, size)
    while len(content) < size and (more := os.read(file, size - len(content))):
        content += more
    return content


def _open(content: bytes, largest: int) -> Image.Image:
    try:
        file = Bounded(content, largest=largest)
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            _fault_code(content, otherwise="not-an-image"), f"cannot be read as one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError("too-large", f"over the limit of {largest:,} pixels") from None
    pixels, weighed = image.width * image.height, weight(image, content)
    if weighed > largest:
        each = f", which count as {weighed:,}" if weighed > pixels else ""
        raise ImageError("too-large", f"{image.width}x{image.height}{each}, over the limit of {largest:,} pixels")
    if len(image.info.get("exif", b"")) > LARGEST_HEADER:
        raise ImageError("too-large", f"EXIF over the limit of {LARGEST_HEADER:,} bytes")
    if image.format == "TIFF":
        for folder in TiffTags.TAGS_V2_GROUPS:  # which would be read, however long they are, and are not needed
            image.getexif().pop(folder, None)
    file.pixels_follow()
    image.load()
    return image


def _fault_code(content: bytes, *, otherwise: str) -> str:
    """What ails an image that cannot be decoded, by its first bytes and the mark that its format ends with."""
    for start, end in ENDS.items():
        if content.startswith(start):
            return "damaged" if end in content[-64:] else "truncated"
    return otherwise


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as 8 bits, which convert("L") would saturate; 32 bits have no agreed white, and are refused."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image)
        scaled = np.empty(levels.shape, np.uint8)
        rows = max(1, PIECE // levels.shape[1])
        for start in range(0, len(levels), rows):  # a large one does not fit twice in 32 bits
            piece = levels[start : start + rows].astype(np.uint32)
            scaled[start : start + rows] = (piece * 255 + 32767) // 65535
        return Image.fromarray(scaled)
    if image.mode in ("I", "F"):
        raise ImageError(
            "unsupported", f"pixels of 32 bits (mode {image.mode}) have no agreed white; save it as 8 or 16"
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    """As EXIF says that it was held. Pillow's own exif_transpose also writes EXIF anew, which fails where it is odd."""
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)
