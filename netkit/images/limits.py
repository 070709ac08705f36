"""Limits on image files that Pillow does not set, so that no file takes minutes or gigabytes to decode.

Times were measured on one core, with files of up to 60 MB like those in tests/support/bad_files.py. A pixel of an
ordinary image takes 4 bytes of memory; MAX_PIXELS of them, two copies of the file and netkit itself fit in 512 MB.
"""

import io
import math
import re
import struct

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from netkit.core.errors import ImageError
from netkit.images import jpeg, tiff
from netkit.images.formats import JPEG_2000_STARTS

MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000  # as counted by `decoding_cost`

MAX_HEADER_BYTES = 2**21  # everything before the pixels. 60 MB of numbers in one EXIF field took 1.7 GB
MAX_PNG_CHUNKS = 100_000  # enough for a file of 64 MB in chunks of 640 bytes
MAX_HEADER_READS = 4 * MAX_PNG_CHUNKS  # Pillow makes up to 4 reads per chunk. 60 MB of comments in a GIF took 37 s

MAX_WEBP_BYTES = 2**25  # Pillow copies the content twice
LOSSLESS_WEBP_CHUNKS = (b"VP8L", b"ALPH")  # may contain large code tables for few pixels. 13 MB took 0.9 GB
PIXELS_PER_LOSSLESS_BYTE = 13  # a byte of such a file counts as 13 pixels: 218 bytes can describe tables of 16 kB
MIN_LOSSLESS_WEBP_BYTES = 2**20  # smaller files are accepted, however low the limit on pixels is
MAX_AVIF_BYTES = 2**24  # noise of the best quality took 80 ms per MB
MAX_JPEG_2000_BYTES = 2**23  # noise without loss took 150 ms per MB
MIN_JPEG_2000_TILE = 64  # pixels. Tiles of 4x4 pixels took 790 bytes per pixel
JPEG_2000_SIZES = re.compile(rb"\xff\x4f\xff\x51....(.{24})", re.DOTALL)  # does not occur in compressed pixels

PNM_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])++"
PNM_HEADER = re.compile(rb"P(?:[14](?:%b\d+){2}|[2356](?:%b\d+){3})\s" % (PNM_SPACE, PNM_SPACE))

MAX_CHEAP_ROWS = 2**16  # a column of 24 million pixels took 17 s, and 730 MB for the pointers to its rows
MIN_ROW_COST = 64  # in images with more rows, each row counts as at least this many pixels
MAX_CHEAP_ROW_PIXELS = 2**18  # Pillow copies a row once per 64 kB. A row of 20 million pixels took 26 s
COPY_COST = 2  # per pixel that needs a second copy: to be converted or rotated, for 16 bits in numpy, in TIFF strips
WEBP_COST = 4  # per pixel: lossless decoding takes 20 bytes per pixel
AVIF_COST = 5  # per pixel: the best quality took 15 bytes and 300 ns per pixel
JPEG_2000_COST = 32  # per pixel: code blocks of 4x4 pixels took 128 bytes and 900 ns per pixel
SLOW_COST = 42  # per pixel or byte: decoders written in Python took up to 14 s for 24 million


class BoundedFile(io.BytesIO):
    """The content of an image file without metadata, with a limit on how much Pillow may read as the header.

    `max_pixels` is the limit on the decoding cost. Raises ImageError if the content, or the header that is read before
    `end_header()` is called, exceeds a limit; UnidentifiedImageError if the content is not an image.
    """

    def __init__(self, content: bytes, *, max_pixels: int) -> None:
        super().__init__(_check(content, max_pixels))
        self._reads_left: float = MAX_HEADER_READS
        # Pillow reads the whole file at once
        is_read_at_once = content.startswith(b"RIFF") or _is_avif(content)
        self._bytes_left: float = math.inf if is_read_at_once else MAX_HEADER_BYTES

    def end_header(self) -> None:
        """Remove the limits on reading. Call this before the pixels are read."""
        self._reads_left = self._bytes_left = math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._reads_left -= 1
        self._bytes_left -= len(data)
        if self._reads_left < 0 or self._bytes_left < 0:
            raise ImageError(
                "too-large",
                f"a header of over {MAX_HEADER_BYTES:,} bytes or {MAX_HEADER_READS:,} parts, the limit; save it again",
            )
        return data


def decoding_cost(image: ImageFile.ImageFile, file: BoundedFile, *, scale: int = 1) -> int:
    """Return the cost of decoding `image` from `file`, in pixels of an ordinary image.

    `scale` is that of jpeg.draft_scale.
    """
    pixels, format_cost = pixel_cost(*image.size), _format_cost(image)
    if image.format == "TIFF":  # tiles are decoded completely, even if they extend beyond the image
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile_width, tile_height = (int(tags.get(tag, 1)) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
        return format_cost * pixel_cost(
            -(-image.width // tile_width) * tile_width, -(-image.height // tile_height) * tile_height
        )
    if image.format in ("JPEG", "MPO"):
        return jpeg.decoding_cost(image, file.getvalue(), scale=scale, pixel_cost=format_cost)
    if format_cost == SLOW_COST:
        return SLOW_COST * max(pixels, file.getbuffer().nbytes)
    return format_cost * pixels


def check_cost(size: tuple[int, int], cost: int, *, max_pixels: int) -> None:
    """Raise ImageError if the cost of decoding an image of this width and height is over the limit."""
    width, height = size
    if cost > max_pixels:
        note = f", which count as {cost:,} to decode" if cost > width * height else f" = {width * height:,}"
        raise ImageError(
            "too-large", f"{width}x{height} pixels{note}, over the limit of {max_pixels:,}; raise --max-pixels"
        )


def _format_cost(image: ImageFile.ImageFile) -> int:
    """Return the cost of a pixel, which depends on the format and the mode."""
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg"):
        return SLOW_COST  # the number of scans of a JPEG stream inside TIFF is unknown
    if any(tile.codec_name in Image.DECODERS for tile in image.tile):  # decoders written in Python
        return SLOW_COST
    if cost := {"WEBP": WEBP_COST, "AVIF": AVIF_COST, "JPEG2000": JPEG_2000_COST}.get(image.format or ""):
        return cost
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return 1
    needs_copy = (
        image.mode != "RGB"
        or image.has_transparency_data
        or any(tile.codec_name == "libtiff" for tile in image.tile)  # which decodes to strips
        or image.format == "PNG"  # its orientation may follow the pixels; plain files do not get here
        or image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    )
    return COPY_COST if needs_copy else 1


def pixel_cost(width: int, height: int) -> int:
    """Return the number of pixels, or more for images that have very many or very long rows."""
    row = max(width, MIN_ROW_COST) if height >= MAX_CHEAP_ROWS else width
    return row * height * max(MAX_CHEAP_ROW_PIXELS, width) // MAX_CHEAP_ROW_PIXELS


def _check(content: bytes, max_pixels: int) -> bytes:
    """Check the limits that need no decoding; return the content without metadata."""
    if content.startswith(jpeg.START):
        jpeg.check(content)
        return jpeg.without_metadata(content)
    if content.startswith(tiff.STARTS):
        return tiff.without_metadata(content)
    if content.startswith(tiff.BIG_STARTS):
        raise ImageError("unsupported", "BigTIFF is not supported; save it as TIFF")
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        kind, max_bytes = "WebP", MAX_WEBP_BYTES
        if any(chunk in content for chunk in LOSSLESS_WEBP_CHUNKS):
            kind = "lossless WebP"
            max_bytes = min(max_bytes, max(MIN_LOSSLESS_WEBP_BYTES, max_pixels // PIXELS_PER_LOSSLESS_BYTE))
        _check_size(kind, content, max_bytes)
    elif _is_avif(content):
        _check_size("AVIF", content, MAX_AVIF_BYTES)
    elif content.startswith(JPEG_2000_STARTS):
        _check_size("JPEG 2000", content, MAX_JPEG_2000_BYTES)
        _check_jpeg_2000_tiles(content)
    elif content.startswith(b"P"):
        return _check_pnm(content, max_pixels)
    return content


def _is_avif(content: bytes) -> bool:
    """Whether content that Pillow can decode is AVIF. The box `ftyp` has fewer than 65,536 bytes."""
    return content.startswith(b"\0\0") and content[4:8] == b"ftyp"


def _check_size(kind: str, content: bytes, max_bytes: int) -> None:
    if len(content) > max_bytes:
        raise ImageError("too-large", f"{kind} of {len(content):,} bytes, over the limit of {max_bytes:,}; save as PNG")


def _check_jpeg_2000_tiles(content: bytes) -> None:
    """Refuse very small tiles. After ITU-T T.800, A.5.1."""
    for sizes in JPEG_2000_SIZES.finditer(content):
        width, height, left, top, tile_width, tile_height = struct.unpack(">6I", sizes[1])
        if tile_width < min(MIN_JPEG_2000_TILE, width - left) or tile_height < min(MIN_JPEG_2000_TILE, height - top):
            raise ImageError(
                "unsupported",
                f"JPEG 2000 with tiles of {tile_width}x{tile_height} pixels, under the minimum of "
                f"{MIN_JPEG_2000_TILE}x{MIN_JPEG_2000_TILE}; save it as PNG",
            )


def _check_pnm(content: bytes, max_pixels: int) -> bytes:
    """Return the content, without comments if its pixels are plain text: Pillow copies the whole text for each one."""
    if not PNM_HEADER.match(content, 0, MAX_HEADER_BYTES):
        raise UnidentifiedImageError
    if content[:2] not in (b"P1", b"P2", b"P3"):
        return content
    if SLOW_COST * len(content) > max_pixels:
        raise ImageError(
            "too-large",
            f"plain-text image of {len(content):,} bytes, over the limit of {max_pixels // SLOW_COST:,}; "
            "save it as binary, or raise --max-pixels",
        )
    return re.sub(rb"#[^\r\n]*", b"", content)
