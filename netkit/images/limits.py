"""Limits on image files that Pillow does not set, so that no file takes minutes or gigabytes to decode.

Times were measured on one core, with files of up to 60 MB like those in tests/support/bad_files.py.
"""

import io
import math
import re

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from netkit.core.errors import ImageError

MAX_HEADER_BYTES = 2**21  # everything before the pixels. 60 MB of numbers in one EXIF field took 1.7 GB
MAX_PNG_CHUNKS = 100_000  # enough for a file of 64 MB in chunks of 640 bytes
MAX_HEADER_READS = 4 * MAX_PNG_CHUNKS  # Pillow makes up to 4 reads per chunk. 60 MB of empty JPEG segments took 37 s

JPEG_START, JPEG_SCAN = b"\xff\xd8\xff", b"\xff\xda"  # start-of-scan markers do not occur in compressed pixels
JPEG_MARKER = re.compile(rb"\xff([^\0\xd0-\xd7\xff])")  # in compressed pixels, 0 or a restart marker follows 0xff
MAX_JPEG_SEGMENTS = 10_000  # limits the time of `jpeg_end`
MAX_JPEG_SCANS = 100  # progressive files have about 10. 2,000 scans in 180 kB took 17 s
JPEG_SCANS_PER_COST = 20  # pixels are counted once more per 20 scans. 100 scans of 24 million pixels took 5 s
# SOF9 to SOF15, with the length for 1, 3 or 4 components of 8 bits. 59 kB took 50 s; such files are very rare
ARITHMETIC_JPEG_FRAME = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]\0[\x0b\x11\x14]\x08")

MAX_WEBP_BYTES = 2**25  # Pillow copies the content twice
LOSSLESS_WEBP_CHUNKS = (b"VP8L", b"ALPH")  # may contain large code tables for few pixels. 13 MB took 0.9 GB
PIXELS_PER_LOSSLESS_BYTE = 5  # a byte of such a file counts as 5 pixels: 218 bytes can describe tables of 16 kB
MIN_LOSSLESS_WEBP_BYTES = 2**20  # smaller files are accepted, however low the limit on pixels is

BIG_TIFF_STARTS = (b"II+\0", b"MM\0+")
PNM_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])++"
PNM_HEADER = re.compile(rb"P(?:[14](?:%b\d+){2}|[2356](?:%b\d+){3})\s" % (PNM_SPACE, PNM_SPACE))

MAX_CHEAP_ROWS = 2**16  # a column of 24 million pixels took 17 s, and 730 MB for the pointers to its rows
MIN_ROW_COST = 64  # in images with more rows, each row counts as at least this many pixels
MAX_CHEAP_ROW_PIXELS = 2**19  # Pillow copies a row once per 64 kB. A row of 20 million pixels took 26 s
WEBP_COST = 2  # per pixel: lossless decoding takes 20 bytes per pixel, other formats up to 10
SLOW_COST = 16  # per pixel or byte: decoders written in Python took up to 14 s for 24 million


class BoundedFile(io.BytesIO):
    """The content of an image file, with a limit on how much Pillow may read as the header.

    `max_pixels` is the limit on the decoding cost. Raises ImageError if the content, or the header that is read before
    `end_header()` is called, exceeds a limit; UnidentifiedImageError if the content is not an image.
    """

    def __init__(self, content: bytes, *, max_pixels: int) -> None:
        super().__init__(_check(content, max_pixels))
        self._reads_left: float = MAX_HEADER_READS
        # Pillow reads the whole WebP file at once
        self._bytes_left: float = math.inf if content.startswith(b"RIFF") else MAX_HEADER_BYTES

    def end_header(self) -> None:
        """Remove the limits on reading. Call this before the pixels are read."""
        self._reads_left = self._bytes_left = math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._reads_left -= 1
        self._bytes_left -= len(data)
        if self._reads_left < 0 or self._bytes_left < 0:
            raise ImageError("too-large", "the header is too large or has too many parts")
        return data


def decoding_cost(image: ImageFile.ImageFile, content: bytes) -> int:
    """Return the cost of decoding `image` from `content`, in pixels of an ordinary image."""
    pixels = pixel_cost(*image.size)
    if image.format == "TIFF":  # tiles are decoded completely, even if they extend beyond the image
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile_width, tile_height = (int(tags.get(tag, 1)) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
        pixels = pixel_cost(-(-image.width // tile_width) * tile_width, -(-image.height // tile_height) * tile_height)
        # the number of scans of a JPEG stream inside TIFF is unknown
        return SLOW_COST * pixels if image.info.get("compression") in ("jpeg", "tiff_jpeg") else pixels
    if content.startswith(JPEG_START):
        return pixels * (1 + _jpeg_scans(content, allowed=JPEG_SCANS_PER_COST - 1) // JPEG_SCANS_PER_COST)
    if image.format == "WEBP":
        return WEBP_COST * pixels
    if any(tile.codec_name in Image.DECODERS for tile in image.tile):  # decoders written in Python
        return SLOW_COST * max(pixels, len(content))
    return pixels


def _jpeg_scans(content: bytes, *, allowed: int) -> int:
    """Return the number of scans in a JPEG file. Searches for the image end only above `allowed`."""
    scans = content.count(JPEG_SCAN)
    return scans if scans <= allowed else content.count(JPEG_SCAN, 0, jpeg_end(content))


def jpeg_end(content: bytes) -> int:
    """Return the position of the marker that ends the image in a JPEG file, or the length of a file without one.

    More data may follow, such as the video of a motion photo. The markers from 0xc0 to 0xef and 0xfe start a
    segment, which contains its length. Raises ImageError if there are too many markers.
    """
    position = len(JPEG_START) - 1
    for _ in range(MAX_JPEG_SEGMENTS):
        marker = JPEG_MARKER.search(content, position)
        if marker is None:
            return len(content)
        kind, position = marker[1][0], marker.end()
        if kind == 0xD9:
            return marker.start()
        if 0xC0 <= kind <= 0xEF or kind == 0xFE:
            position += int.from_bytes(content[position : position + 2])
    raise ImageError("too-large", f"JPEG with more than {MAX_JPEG_SEGMENTS:,} segments")


def pixel_cost(width: int, height: int) -> int:
    """Return the number of pixels, or more for images that have very many or very long rows."""
    row = max(width, MIN_ROW_COST) if height >= MAX_CHEAP_ROWS else width
    return row * height * max(MAX_CHEAP_ROW_PIXELS, width) // MAX_CHEAP_ROW_PIXELS


def _check(content: bytes, max_pixels: int) -> bytes:
    """Check the limits that need no decoding; return the content, without comments if its pixels are plain text."""
    if content.startswith(JPEG_START):
        if _jpeg_scans(content, allowed=MAX_JPEG_SCANS) > MAX_JPEG_SCANS:
            raise ImageError("too-large", f"JPEG with more than {MAX_JPEG_SCANS} scans")
        frame = ARITHMETIC_JPEG_FRAME.search(content)
        if frame and frame.start() < jpeg_end(content):
            raise ImageError("unsupported", "JPEG with arithmetic coding is not supported")
    elif content.startswith(BIG_TIFF_STARTS):
        raise ImageError("unsupported", "BigTIFF is not supported")
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
                raise ImageError(
                    "too-large", f"plain-text image of over {max_pixels // SLOW_COST:,} bytes; save it as binary"
                )
            return re.sub(rb"#[^\r\n]*", b"", content)  # Pillow copies the whole text for each comment
    return content
