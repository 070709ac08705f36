"""Limits on image files: no file takes minutes or gigabytes to decode where Pillow itself sets no limit.

Times were measured on one core, with files of up to 60 MB like those in tests/faults/test_bad_input.py.
"""

import io
import math
import re

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from netkit.core.errors import ImageError

MAX_HEADER_BYTES = 2**21  # all that precedes the pixels. 60 MB of numbers in one EXIF field took 1.7 GB
MAX_PNG_CHUNKS = 100_000  # as many as a file of 64 MB has in chunks of 640 bytes
MAX_HEADER_READS = 4 * MAX_PNG_CHUNKS  # Pillow reads a chunk in up to four. 60 MB of empty JPEG segments took 37 s

JPEG_START, JPEG_SCAN = b"\xff\xd8\xff", b"\xff\xda"  # compressed pixels never contain the marker of a scan
MAX_JPEG_SCANS = 100  # progressive files have about ten. 2,000 scans in 180 kB took 17 s
JPEG_SCANS_AT_NO_COST = 20  # with each 20 more, pixels count once more. 100 scans of 24 million pixels took 5 s
# SOF9 to SOF15, with the length for 1, 3 or 4 components of 8 bits. 59 kB took 50 s; hardly any file is coded so
ARITHMETIC_JPEG_FRAME = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]\0[\x0b\x11\x14]\x08")

MAX_WEBP_BYTES = 2**25  # Pillow copies the content twice
LOSSLESS_WEBP_CHUNKS = (b"VP8L", b"ALPH")  # may hold tables of codes, however few the pixels. 13 MB took 0.9 GB
PIXELS_PER_LOSSLESS_BYTE = 5  # what such a file counts as: 218 bytes can describe tables of 16 kB
MIN_LOSSLESS_WEBP_BYTES = 2**20  # always accepted, however low the limit on pixels

BIG_TIFF_STARTS = (b"II+\0", b"MM\0+")
PNM_BLANK = rb"(?:\s|#[^\r\n]*[\r\n])++"
PNM_HEADER = re.compile(rb"P(?:[14](?:%b\d+){2}|[2356](?:%b\d+){3})\s" % (PNM_BLANK, PNM_BLANK))

MAX_CHEAP_ROWS = 2**16  # a column of 24 million pixels took 17 s, and 730 MB for the pointers to its rows
MIN_ROW_COST = 64  # pixels that a row counts as in images of more rows
MAX_CHEAP_ROW_PIXELS = 2**19  # Pillow copies a row once for each 64 kB. A row of 20 million pixels took 26 s
WEBP_COST = 2  # times the pixels: lossless decoding takes 20 bytes a pixel, other formats up to 10
SLOW_COST = 16  # times the pixels, or the bytes: decoders written in Python took up to 14 s for 24 million


class BoundedFile(io.BytesIO):
    """The content of an image file of at most `max_pixels` pixels, which limits how much of it is read as the header.

    Raises ImageError if the content, or what is read before `end_header()`, exceeds a limit; UnidentifiedImageError if
    the content is no image.
    """

    def __init__(self, content: bytes, *, max_pixels: int) -> None:
        super().__init__(_checked(content, max_pixels))
        self._reads_left: float = MAX_HEADER_READS
        # Pillow reads WebP files whole
        self._bytes_left: float = math.inf if content.startswith(b"RIFF") else MAX_HEADER_BYTES

    def end_header(self) -> None:
        """Lift the limits: what is read from now on is pixels."""
        self._reads_left = self._bytes_left = math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._reads_left -= 1
        self._bytes_left -= len(data)
        if self._reads_left < 0 or self._bytes_left < 0:
            raise ImageError("too-large", "a header longer, or of more parts, than images need")
        return data


def decoding_cost(image: ImageFile.ImageFile, content: bytes) -> int:
    """Return how many pixels of an ordinary file take as much time or memory as decoding `image` from `content`."""
    pixels = pixel_cost(*image.size)
    if image.format == "TIFF":  # tiles are decoded whole, even where they exceed the image
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile_width, tile_height = (int(tags.get(tag, 1)) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
        pixels = pixel_cost(-(-image.width // tile_width) * tile_width, -(-image.height // tile_height) * tile_height)
        # the number of scans of JPEG within TIFF is not known
        return SLOW_COST * pixels if image.info.get("compression") in ("jpeg", "tiff_jpeg") else pixels
    if content.startswith(JPEG_START):
        return pixels * (1 + content.count(JPEG_SCAN) // JPEG_SCANS_AT_NO_COST)
    if image.format == "WEBP":
        return WEBP_COST * pixels
    if any(tile.codec_name in Image.DECODERS for tile in image.tile):  # decoders written in Python
        return SLOW_COST * max(pixels, len(content))
    return pixels


def pixel_cost(width: int, height: int) -> int:
    """Return the number of pixels, counting more for images of very many or very long rows."""
    row = max(width, MIN_ROW_COST) if height >= MAX_CHEAP_ROWS else width
    return row * height * max(MAX_CHEAP_ROW_PIXELS, width) // MAX_CHEAP_ROW_PIXELS


def _checked(content: bytes, max_pixels: int) -> bytes:
    """Check limits that depend on the content alone, and return it, without comments if its pixels are text."""
    if content.startswith(JPEG_START):
        if content.count(JPEG_SCAN) > MAX_JPEG_SCANS:
            raise ImageError("too-large", f"a JPEG image of over {MAX_JPEG_SCANS} scans")
        if ARITHMETIC_JPEG_FRAME.search(content):
            raise ImageError("unsupported", "a JPEG image in arithmetic coding")
    elif content.startswith(BIG_TIFF_STARTS):
        raise ImageError("unsupported", "BigTIFF")
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        kind, max_bytes = "WebP", MAX_WEBP_BYTES
        if any(chunk in content for chunk in LOSSLESS_WEBP_CHUNKS):
            kind = "lossless WebP"
            max_bytes = min(max_bytes, max(MIN_LOSSLESS_WEBP_BYTES, max_pixels // PIXELS_PER_LOSSLESS_BYTE))
        if len(content) > max_bytes:
            raise ImageError("too-large", f"{kind} over the limit of {max_bytes:,} bytes")
    elif content.startswith(b"P"):
        if not PNM_HEADER.match(content, 0, MAX_HEADER_BYTES):
            raise UnidentifiedImageError
        if content[:2] in (b"P1", b"P2", b"P3"):
            if SLOW_COST * len(content) > max_pixels:
                raise ImageError("too-large", f"pixels as text, over the limit of {max_pixels // SLOW_COST:,} bytes")
            return re.sub(rb"#[^\r\n]*", b"", content)  # Pillow copies the whole text for each comment
    return content
