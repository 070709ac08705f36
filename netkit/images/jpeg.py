"""JPEG files: remove metadata, find the end of the image, and decode at a reduced scale.

After ITU-T T.81 (https://www.w3.org/Graphics/JPEG/itu-t81.pdf), annex B.
"""

import re
from collections.abc import Iterator

from PIL import ExifTags, ImageFile

from netkit.core.errors import ImageError
from netkit.core.model_card import Input

START, SCAN = b"\xff\xd8\xff", b"\xff\xda"  # start-of-scan markers do not occur in compressed pixels
MARKER = re.compile(rb"\xff([^\0\xd0-\xd7\xff])")  # in compressed pixels, 0 or a restart marker follows 0xff
SEGMENT = re.compile(rb"\xff++([\xc0-\xcf\xda-\xdf\xe0-\xef\xfe])(..)", re.DOTALL)  # type and length
MAX_SEGMENTS = 10_000  # limits the time of `image_end` and `without_metadata`
MAX_SCANS = 100  # progressive files have about 10. 2,000 scans in 180 kB took 17 s
SCANS_PER_COST = 16  # pixels count once per 16 scans: a scan of 24 million pixels took 50 ms even without any data
MIN_COST_SHARE = 4  # decoding a pixel takes at least a quarter of the time of a full decode, at any scale
COEFFICIENT_BYTES = 2
# SOF3 and SOF5 to SOF15, with the length for 1, 3 or 4 components of 8 bits. With arithmetic coding, 59 kB took 50 s
RARE_FRAME = re.compile(rb"\xff[\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\0[\x0b\x11\x14]\x08")
# segments with the orientation or the color space. Others, such as depth maps and color profiles, take up to megabytes
NEEDED_METADATA = (b"JFIF\0", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Adobe")
TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
SCALES = (8, 4, 2)
MIN_DRAFT_RATIO = 3  # to the target size: differs by up to 2 levels from a full decode, with 2 by up to 3, with 1 by 8


def check(content: bytes) -> None:
    """Raise ImageError if the file has too many scans or a rare kind of coding."""
    if (scans := _count_scans(content, allowed=MAX_SCANS)) > MAX_SCANS:
        raise ImageError("too-large", f"JPEG with {scans:,} scans, over the limit of {MAX_SCANS}; save it again")
    *_, (kind, _, header_end) = [(0, 0, 0), *_segments(content)]
    if RARE_FRAME.search(content, 0, header_end if kind == SCAN[1] else image_end(content)):
        raise ImageError("unsupported", "JPEG with arithmetic, lossless or hierarchical coding is not supported")


def without_metadata(content: bytes) -> bytes:
    """Return the file without the metadata before the first scan that does not change the pixels."""
    parts: list[bytes | memoryview] = [content[:2]]
    end = 2
    for kind, start, stop in _segments(content):
        is_metadata = 0xE0 <= kind <= 0xEF or kind == 0xFE
        if not is_metadata or content.startswith(NEEDED_METADATA, start + 4):
            parts.append(content[start:stop])
        end = stop
    return b"".join([*parts, memoryview(content)[end:]])


def draft_scale(image: ImageFile.ImageFile, spec: Input) -> int:
    """Return by what to divide the sides while decoding: 8, 4, 2 or 1.

    The result has whole sides, so that no edge is padded, and at least three times the size to which it is scaled.
    """
    sides = image.size
    if image.getexif().get(ExifTags.Base.Orientation) in TRANSPOSING_ORIENTATIONS:
        sides = sides[::-1]
    targets = spec.scaled(*sides)
    for scale in SCALES:
        if all(
            side % scale == 0 and side // scale >= MIN_DRAFT_RATIO * target
            for side, target in zip(sides, targets, strict=True)
        ):
            return scale
    return 1


def decoding_cost(image: ImageFile.ImageFile, content: bytes, *, scale: int, pixel_cost: int) -> int:
    """Return the cost of decoding with the sides divided by `scale`, in pixels of an ordinary image.

    `pixel_cost` is the cost of a decoded pixel. If a scan lacks some components or some bits, libjpeg keeps the
    coefficients of the whole image in memory.
    """
    pixels = image.width * image.height
    memory = pixels * pixel_cost // scale**2
    last = max(_segments(content), key=lambda segment: segment[1], default=(0, 0, 0))
    components_in_scan = content[last[1] + 4] if last[0] == SCAN[1] else 0
    layers: list[tuple[int, int, int, int]] = image.layer  # type: ignore[attr-defined]
    if image.info.get("progressive") or components_in_scan < len(layers):
        samples = [height * width for _, height, width, _ in layers]
        memory += pixels * COEFFICIENT_BYTES * sum(samples) // max(*samples, 1) // 4
    scans = _count_scans(content, allowed=SCANS_PER_COST)
    return max(memory, pixels // MIN_COST_SHARE, pixels * scans // SCANS_PER_COST)


def image_end(content: bytes) -> int:
    """Return the position of the marker that ends the image in a JPEG file, or the length of a file without one.

    More data may follow, such as the video of a motion photo. The markers from 0xc0 to 0xef and 0xfe start a
    segment, which contains its length. Raises ImageError if there are too many markers.
    """
    position = len(START) - 1
    for _ in range(MAX_SEGMENTS):
        marker = MARKER.search(content, position)
        if marker is None:
            return len(content)
        kind, position = marker[1][0], marker.end()
        if kind == 0xD9:
            return marker.start()
        if 0xC0 <= kind <= 0xEF or kind == 0xFE:
            position += int.from_bytes(content[position : position + 2])
    raise _too_many_segments()


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the type, start and end of each segment through the first start of scan, as long as they are well-formed.

    Raises ImageError if there are too many.
    """
    position = len(START) - 1
    for _ in range(MAX_SEGMENTS):
        segment = SEGMENT.match(content, position)
        if segment is None or (size := int.from_bytes(segment[2])) < 2:
            return
        kind, position = segment[1][0], segment.end() - 2 + size
        yield kind, segment.end() - 4, position
        if kind == SCAN[1]:
            return
    raise _too_many_segments()


def _too_many_segments() -> ImageError:
    return ImageError("too-large", f"JPEG with over {MAX_SEGMENTS:,} segments, the limit; save it without metadata")


def _count_scans(content: bytes, *, allowed: int) -> int:
    """Return the number of scans in a JPEG file. Searches for the image end only above `allowed`."""
    scans = content.count(SCAN)
    return scans if scans <= allowed else content.count(SCAN, 0, image_end(content))
