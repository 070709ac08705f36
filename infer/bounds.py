"""Bounds: what keeps a file made to do so from taking minutes, or gigabytes, where Pillow sets no limit itself.

Times are those of files of up to 60 MB that the tests make, on one core.
"""

import io
import math
import re

from PIL import ImageFile, UnidentifiedImageError

from nets.errors import ImageError

MOST_PARTS = 100_000  # chunks of a PNG file; a file of 64 MB in parts of 640 bytes has as many
MOST_READS = 4 * MOST_PARTS  # Pillow reads a part in up to four pieces; 60 MB of empty JPEG segments took 37 s
LARGEST_HEADER = 8 * 2**20  # bytes of a JPEG file before its pixels; of 60 MB of EXIF each segment copied all before it
MOST_SCANS = 100  # of a JPEG file; progressive ones have about ten. 2,000 in 180 kB took 17 s
LARGEST_PNM_HEADER = 2**16
JPEG, SCAN = b"\xff\xd8\xff", b"\xff\xda"  # no other two bytes of pixels are those of a scan's start
BLANK = rb"(?:\s|#[^\r\n]*[\r\n])++"
PNM_HEADER = re.compile(rb"P(?:[14](?:%b\d+){2}|[2356](?:%b\d+){3})\s" % (BLANK, BLANK))
SLOW_CODECS = {"ppm", "ppm_plain", "bmp_rle"}  # written in Python
SLOW = 16  # times: 24 million pixels or bytes took up to 14 s
WEBP = 2  # times: lossless, a pixel takes 20 bytes while it is decoded; elsewhere up to 10


class Bounded(io.BytesIO):
    """The content of an image file of at most `largest` pixels, whose header is read only if it is not too long.

    Raises ImageError where it is, UnidentifiedImageError where it is no image's.
    """

    def __init__(self, content: bytes, *, largest: int) -> None:
        super().__init__(_checked(content, largest))
        self._reads_left: float = MOST_READS
        self._end: float = LARGEST_HEADER if content.startswith(JPEG) else math.inf

    def pixels_follow(self) -> None:
        """The header has been read."""
        self._reads_left = self._end = math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0 or self.tell() > self._end:
            raise ImageError("damaged", "a header of more parts, or longer, than any image needs")
        return super().read(size)


def weight(image: ImageFile.ImageFile, content: bytes) -> int:
    """How many pixels of a plain file take as much time, or memory, as decoding the `image` in `content` does."""
    pixels = image.width * image.height
    if any(tile.codec_name in SLOW_CODECS for tile in image.tile):
        return SLOW * max(pixels, len(content))
    return WEBP * pixels if image.format == "WEBP" else pixels


def _checked(content: bytes, largest: int) -> bytes:
    """The content; of a text of pixels without its comments, for each of which Pillow copies the whole text."""
    if content.startswith(JPEG) and content.count(SCAN) > MOST_SCANS:
        raise ImageError("damaged", f"a JPEG image of over {MOST_SCANS} scans")
    if content.startswith(b"P"):
        if not PNM_HEADER.match(content, 0, LARGEST_PNM_HEADER):
            raise UnidentifiedImageError
        if content[:2] in (b"P1", b"P2", b"P3"):
            if SLOW * len(content) > largest:
                raise ImageError("too-large", f"pixels as text, over the limit of {largest // SLOW:,} bytes")
            return re.sub(rb"#[^\r\n]*", b"", content)
    return content
