"""PNG files: check all checksums (Pillow skips those of pixel data), and decode plain images fast.

After the PNG specification, third edition (https://www.w3.org/TR/png-3/).
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from netkit.core.errors import ImageError
from netkit.images.limits import MAX_HEADER_BYTES, MAX_PNG_CHUNKS, pixel_cost

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MODES = {0: "L", 2: "RGB"}  # color type -> Pillow's mode; other types have a palette or alpha
# chunks that do not change the decoded pixels
CHUNKS_WITHOUT_EFFECT = {b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"sRGB"}
IHDR = struct.Struct(">IIBBBBB")  # width, height, bit depth, color type, compression, filter, interlace
CHUNK_START, CHUNK_END = struct.Struct(">I4s").unpack_from, struct.Struct(">I").unpack_from  # size and type; CRC-32


def plain_image(content: bytes, *, max_pixels: int) -> Image.Image | None:
    """Decode the PNG file `content` if it is plain 8-bit grey or RGB; return None if it needs Pillow's own decoder.

    The pixels equal Pillow's. Small images take half of Pillow's time; for images that need Pillow's decoder, the
    checks take 2 us of 18 us at 28x28. Raises ImageError "truncated" or "damaged" if a chunk is incomplete or has a
    wrong checksum.
    """
    header, pixels, is_plain = b"", [], True
    for kind, data in _chunks(content):
        is_plain = is_plain and kind in CHUNKS_WITHOUT_EFFECT
        if kind == b"IDAT":
            pixels.append(data)
        elif kind == b"IHDR":
            header = bytes(data)
    if not is_plain or len(header) != IHDR.size:
        return None
    width, height, bits, color_type, _, _, interlace = IHDR.unpack(header)
    if bits != 8 or color_type not in MODES or interlace or not 0 < pixel_cost(width, height) <= max_pixels:
        return None
    mode = MODES[color_type]
    try:
        return Image.frombytes(mode, (width, height), b"".join(pixels), "zip", mode)
    except ValueError:  # Pillow's own decoder raises a better message
        return None


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and the data of each chunk, up to IEND."""
    view, start, kind = memoryview(content), len(SIGNATURE), b""
    count = header_bytes = 0
    while kind != b"IEND":
        count += 1
        if count > MAX_PNG_CHUNKS or header_bytes > MAX_HEADER_BYTES:
            raise ImageError("too-large", "too many or too large PNG chunks")
        end = len(content)
        if start + 8 <= end:
            size, kind = CHUNK_START(content, start)
            end = start + 8 + size
        if end + 4 > len(content):
            raise ImageError("truncated", "cannot be decoded: the file ends within a PNG chunk")
        if zlib.crc32(view[start + 4 : end]) != CHUNK_END(content, end)[0]:
            raise ImageError("damaged", f"cannot be decoded: the PNG chunk {kind!r} has a wrong checksum")
        yield kind, view[start + 8 : end]
        header_bytes += 0 if kind == b"IDAT" else end - start
        start = end + 4
