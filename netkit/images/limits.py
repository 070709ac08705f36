"""Bounds: what keeps a file made to do so from taking minutes, or gigabytes, where Pillow sets no limit itself.

Times are those of files of up to 60 MB that the tests make, on one core.
"""

import io
import math
import re

from PIL import ImageFile, UnidentifiedImageError

from netkit.core.errors import ImageError

MOST_PARTS = 100_000  # chunks of a PNG file; a file of 64 MB in parts of 640 bytes has as many
MOST_READS = 4 * MOST_PARTS  # Pillow reads a part in up to four pieces; 60 MB of empty JPEG segments took 37 s
LARGEST_HEADER = 2**21  # bytes before the pixels; 60 MB of an orientation's numbers took 1.7 GB
LARGEST_WEBP = 2**25  # bytes; its content is copied twice
LOSSLESS = (b"VP8L", b"ALPH")  # parts of WebP whose codes have tables, however few the pixels: 13 MB took 0.9 GB
SMALL_LOSSLESS = 2**20  # bytes that such a file may have, however small a limit on pixels is set
PIXELS_A_BYTE = 5  # that such a file counts as: a group of codes takes 218 bytes, and its tables 16 kB
MOST_SCANS = 100  # of a JPEG file; progressive ones have about ten. 2,000 in 180 kB took 17 s
USUAL_SCANS = 20  # in more, pixels count more: 100 scans of 24 million took 5 s
LARGEST_PNM_HEADER = 2**16
MANY_ROWS = 2**16  # a column of 24 million pixels took 17 s, and 730 MB of pointers to its rows
LEAST_WIDTH = 64  # pixels, that a row counts as where there are so many
WIDE = 2**19  # pixels of a row; longer ones count more: Pillow copies a row for each 64 kB, and 20 million took 26 s
JPEG, SCAN = b"\xff\xd8\xff", b"\xff\xda"  # no other two bytes of pixels are those of a scan's start
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers, after its specification, table B.1
ARITHMETIC = {frame for frame in FRAMES if frame > 0xC8}  # coding, in which 59 kB took 50 s; hardly any file has it
ALONE = {0x01, *range(0xD0, 0xDA)}  # markers that no length follows
BIG_TIFF = (b"II+\0", b"MM\0+")
TILE_WIDTH, TILE_HEIGHT = 322, 323  # TIFF's tags
BLANK = rb"(?:\s|#[^\r\n]*[\r\n])++"
PNM_HEADER = re.compile(rb"P(?:[14](?:%b\d+){2}|[2356](?:%b\d+){3})\s" % (BLANK, BLANK))
SLOW_CODECS = {"ppm", "ppm_plain", "bmp_rle"}  # written in Python
SLOW = 16  # times: 24 million pixels or bytes took up to 14 s; also of JPEG in TIFF, whose coding is not looked at
DEEP = {"LA;16B", "RGB;16B", "RGBA;16B"}  # of PNG: 24 million pixels took 2.0 s. They count double
# So do those of WebP: lossless, one takes 20 bytes while it is decoded; elsewhere up to 10


class Bounded(io.BytesIO):
    """The content of an image file of at most `largest` pixels, whose header is read only if it is not too long.

    Raises ImageError where it is, UnidentifiedImageError where it is no image's.
    """

    def __init__(self, content: bytes, *, largest: int) -> None:
        super().__init__(_checked(content, largest))
        self._reads_left: float = MOST_READS
        self._bytes_left: float = math.inf if content.startswith(b"RIFF") else LARGEST_HEADER  # WebP is read at once

    def pixels_follow(self) -> None:
        """The header has been read."""
        self._reads_left = self._bytes_left = math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        taken = super().read(size)
        self._reads_left -= 1
        self._bytes_left -= len(taken)
        if self._reads_left < 0 or self._bytes_left < 0:
            raise ImageError("too-large", "a header longer, or of more parts, than images need")
        return taken


def weight(image: ImageFile.ImageFile, content: bytes) -> int:
    """How many pixels of a plain file take as much time, or memory, as decoding the `image` in `content` does."""
    pixels = counted(*image.size)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # tiles are decoded whole, however few of their pixels count
        across, down = (int(tags.get(tag, 1)) for tag in (TILE_WIDTH, TILE_HEIGHT))
        pixels = counted(-(-image.width // across) * across, -(-image.height // down) * down)
    if content.startswith(JPEG):
        return pixels * (1 + content.count(SCAN) // USUAL_SCANS)
    if image.format == "WEBP" or any(tile.args in DEEP for tile in image.tile):
        return 2 * pixels
    if any(tile.codec_name in SLOW_CODECS for tile in image.tile):
        return SLOW * max(pixels, len(content))
    return SLOW * pixels if image.info.get("compression") in ("jpeg", "tiff_jpeg") else pixels


def counted(width: int, height: int) -> int:
    """The pixels of a plain image, of which those in very many or very long rows count more."""
    return (max(width, LEAST_WIDTH) if height >= MANY_ROWS else width) * height * max(WIDE, width) // WIDE


def _checked(content: bytes, largest: int) -> bytes:
    """The content; of a text of pixels without its comments, for each of which Pillow copies the whole text."""
    if content.startswith(JPEG):
        if content.count(SCAN) > MOST_SCANS:
            raise ImageError("too-large", f"a JPEG image of over {MOST_SCANS} scans")
        if _frame(content) in ARITHMETIC:
            raise ImageError("unsupported", "a JPEG image in arithmetic coding")
    if content.startswith(BIG_TIFF):
        raise ImageError("unsupported", "BigTIFF")
    if content[8:12] == b"WEBP":
        kind, most = "WebP", LARGEST_WEBP
        if any(part in content for part in LOSSLESS):
            kind, most = "lossless WebP", min(most, max(SMALL_LOSSLESS, largest // PIXELS_A_BYTE))
        if len(content) > most:
            raise ImageError("too-large", f"{kind} over the limit of {most:,} bytes")
    if content.startswith(b"P"):
        if not PNM_HEADER.match(content, 0, LARGEST_PNM_HEADER):
            raise UnidentifiedImageError
        if content[:2] in (b"P1", b"P2", b"P3"):
            if SLOW * len(content) > largest:
                raise ImageError("too-large", f"pixels as text, over the limit of {largest // SLOW:,} bytes")
            return re.sub(rb"#[^\r\n]*", b"", content)
    return content


def _frame(content: bytes) -> int | None:
    """The marker of a JPEG file's frame; None where there is none among its first parts."""
    at = 2
    for _ in range(MOST_PARTS):
        at = content.find(b"\xff", at)
        if at < 0 or at + 4 > len(content):
            return None
        marker = content[at + 1]
        if marker in FRAMES:
            return marker
        if marker in (0x00, 0xFF):  # no marker yet
            at += 1
        else:
            at += 2 if marker in ALONE else 2 + int.from_bytes(content[at + 2 : at + 4])
    return None
