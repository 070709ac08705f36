"""Builders of image files that are unusual, large, damaged or malicious."""

import io
import math
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

Create = Callable[[Path], object]  # writes a file at a path

MAX_SIDE = 8000  # pixels; a square of this side is just below the limit on pixels
MAX_COPIED_SIDE = 5656  # pixels; likewise for pixels that are copied and count twice
MAX_PROGRESSIVE_SIDE = 6040  # pixels; likewise for progressive JPEG in color, whose pixels count 1.75 times
MAX_WEBP_SIDE = 4000  # pixels; likewise for WebP, whose pixels count 4 times
MAX_AVIF_SIDE, MAX_JPEG_2000_SIDE = 3577, 1414  # pixels; likewise, for pixels that count 5 and 32 times
RGBA_LEVELS = np.random.default_rng(0).integers(0, 256, (28, 28, 4), np.uint8)


def encode(mode: str, image_format: str, **options: Any) -> bytes:
    """Encode a random image of 28x28 pixels."""
    file = io.BytesIO()
    Image.fromarray(RGBA_LEVELS, "RGBA").convert(mode).save(file, image_format, **options)
    return file.getvalue()


def animation(image_format: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((28, 28, 3), level, np.uint8)) for level in range(0, 250, 10)]
    frames[0].save(file, image_format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def exif_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def large(mode: str, image_format: str, *, side: int = MAX_SIDE, **options: Any) -> Create:
    return lambda path: Image.new(mode, (side, side)).save(path, image_format, **options)


def noise(mode: str, image_format: str, *, side: int = MAX_SIDE, **options: Any) -> Create:
    def create(path: Path) -> None:
        levels = np.random.default_rng(0).integers(0, 256, (side, side, len(mode)), np.uint8)
        Image.fromarray(levels.squeeze()).save(path, image_format, **options)

    return create


def insert(content: bytes, at: int, *parts: tuple[bytes, int]) -> Create:
    """Insert parts into `content` at the offset `at`; each part is its bytes and how often they are repeated."""

    def create(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(content[:at])
            for part, repeats in parts:
                file.write(part * repeats)
            file.write(content[at:])

    return create


@cache
def compressed_gigabyte() -> bytes:
    """Return a gigabyte of zeros, compressed to a megabyte. This takes seconds, so it is cached."""
    return zlib.compress(bytes(2**30), 9)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_with_gigabyte(kind: bytes, prefix: bytes) -> Create:
    """A PNG with a chunk of type `kind` before the pixels, whose content unpacks to a gigabyte."""
    return lambda path: path.write_bytes(
        png(28, 28, png_chunk(kind, prefix + compressed_gigabyte()), png_chunk(b"IDAT", PNG_PIXELS))
    )


def narrow_png(mode: str) -> Create:
    """A PNG that is one pixel wide and as high as the limit on pixels permits."""
    kind, row_bytes = {"RGBA": (b"\x08\x06", 5), "I;16": (b"\x10\0", 3)}[mode]

    def create(path: Path) -> None:
        header = png_chunk(b"IHDR", struct.pack(">II", 1, 24_000_000) + kind + b"\0\0\0")
        pixels = png_chunk(b"IDAT", zlib.compress(bytes(24_000_000 * row_bytes), 1))
        path.write_bytes(GREY_PNG[:8] + header + pixels + png_chunk(b"IEND", b""))

    return create


def jpeg_with_many_scans(path: Path) -> None:
    """A progressive JPEG whose last scan is repeated 2,000 times: 180 kB."""
    large("L", "JPEG", progressive=True)(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 2000 + content[-2:])


def bmp_with_short_runs(path: Path) -> None:
    """A run-length encoded BMP in which each run has one pixel."""
    rows = (b"\x01\x07" * MAX_COPIED_SIDE + b"\0\0") * MAX_COPIED_SIDE + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, MAX_COPIED_SIDE, MAX_COPIED_SIDE, 1, 8, 1, len(rows), 0, 0, 256, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows)


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """Return 60 MB of zeros as a TIFF with directory entries (tag, type, count, value or offset)."""
    start = 60_000_008
    fields = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (
        struct.pack("<2sHI", b"II", 42, start) + bytes(start - 8) + struct.pack("<H", len(entries)) + fields + bytes(4)
    )


def grey_tiff(*entries: tuple[int, int, int, int]) -> Create:
    """A grey TIFF of 28x28 pixels with more directory entries."""
    return lambda path: path.write_bytes(tiff(*GREY_TIFF_ENTRIES, *entries))


def webp_with_code_tables(groups: int) -> Create:
    """A lossless WebP without pixels, with `groups` groups of prefix codes: 218 bytes and tables of 16 kB each.

    After the WebP lossless specification (https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification).
    """
    single_symbol = "1000"  # a code for the symbol 0 alone, which is coded in no bits
    code_length_order = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12]

    def code(code_lengths: dict[int, int], *tokens: str, last: int, max_symbol: str = "0") -> str:
        count = code_length_order.index(last) + 1
        lengths = "".join(bits(code_lengths.get(length, 0), 3) for length in code_length_order[:count])
        return "0" + bits(count - 4, 4) + lengths + max_symbol + "".join(tokens)

    eights = "0", ("1" + bits(3, 2)) * 42, "1" + bits(0, 2)  # 256 lengths of 8, in 44 tokens
    byte_code = code({16: 1, 8: 1}, *eights, last=8)
    literals = code({16: 1, 8: 1}, *eights, last=8, max_symbol="1" + bits(2, 3) + bits(44 - 2, 6))
    cached = "10" + ("0" + bits(3, 2)) * 294 + "0" + bits(0, 2) + "11" + ("0" + bits(3, 2)) * 92  # 1,768 of 11, then 12
    green = code({16: 1, 11: 2, 12: 2}, cached, "0" + bits(1, 2), "0" + bits(0, 2), last=12)

    def create(path: Path) -> None:
        columns = math.isqrt(groups)
        rows = -(-groups // columns)
        header = (
            bits(4 * columns - 1, 14) + bits(4 * rows - 1, 14) + "0" + "000" + "0" + "1" + bits(11, 4) + "1" + "000"
        )
        indices = (min(index, groups - 1) for index in range(columns * rows))
        group_image = "".join(f"{index & 255:08b}{index >> 8:08b}" for index in indices)
        stream = header + "0" + literals + byte_code + 3 * single_symbol + group_image
        stream += (green + 3 * byte_code + single_symbol) * groups
        packed = np.packbits(np.frombuffer(stream.encode(), np.uint8) - ord("0"), bitorder="little").tobytes()
        content = b"WEBPVP8L" + struct.pack("<I", len(packed) + 1) + b"\x2f" + packed
        content += b"\0" * (len(content) % 2)
        path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)

    return create


def bits(number: int, count: int) -> str:
    """Return the lowest `count` bits of `number` as text, the lowest bit first."""
    return f"{number:0{count}b}"[::-1]


GREY_JPEG, GREY_GIF, GREY_PNG = encode("L", "JPEG"), encode("L", "GIF"), encode("L", "PNG")
GREY_TIFF_ENTRIES = [(256, 3, 1, 28), (257, 3, 1, 28), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
GIF_PALETTE_END = 13 + 3 * 2 ** ((GREY_GIF[10] & 7) + 1)
EXIF_SEGMENT = b"\xff\xe1" + struct.pack(">H", 60_008) + b"Exif\0\0" + bytes(60_000)
PNG_PIXELS = zlib.compress(bytes(29 * 28))
