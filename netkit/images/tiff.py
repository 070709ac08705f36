"""TIFF files: remove metadata, and keep libtiff from writing to stderr.

After TIFF revision 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf), section 2.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from PIL import ExifTags, ImageFile, _imaging

from netkit.core.errors import ImageError

STARTS, BIG_STARTS = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")
ENTRY_BYTES = 12
SIGNED = 2  # a value of the tag SampleFormat
XMP, BYTES = 700, (1, 7)  # a tag that may contain an orientation, and types of its value
MAX_XMP_BYTES = 2**20  # longer XMP, such as an editing history, is removed
# other tags that the pixels depend on: size, format, compression, position and colors of the pixels, and orientation
NEEDED_TAGS = {
    *range(254, 260), 262, 266, 273, 274, *range(277, 280), *range(282, 285), 292, 293, 317, 320, *range(322, 326),
    332, 333, 334, 338, 339, 347, *range(512, 522), *range(529, 533),
}  # fmt: skip


def without_metadata(content: bytes) -> bytes:
    """Return the file with its first image only, and only with the tags that the pixels depend on.

    Pillow reads the values of all tags, of whatever size, and libtiff prints warnings about tags that it does not know.
    """
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    start = int.from_bytes(content[4:8], order)
    count = int.from_bytes(content[start : start + 2], order)
    if start + 2 + ENTRY_BYTES * count > len(content):  # many writers put the tags at the end
        raise ImageError("truncated", "cannot be decoded: the file ends before the tags of TIFF")
    end = start + 2 + ENTRY_BYTES * count
    entries = [content[at : at + ENTRY_BYTES] for at in range(start + 2, end, ENTRY_BYTES)]
    kept = [entry for entry in entries if _is_needed(entry, order)]
    directory = len(kept).to_bytes(2, order) + b"".join(kept) + bytes(4)  # the offset 0: no further image
    view = memoryview(content)
    return b"".join([view[:start], directory, view[start + len(directory) :]])


def _is_needed(entry: bytes, order: Literal["little", "big"]) -> bool:
    tag, kind, count = (int.from_bytes(entry[start:end], order) for start, end in ((0, 2), (2, 4), (4, 8)))
    return tag in NEEDED_TAGS or (tag == XMP and kind in BYTES and count <= MAX_XMP_BYTES)


def check(image: ImageFile.ImageFile) -> None:
    """Raise ImageError for pixels that Pillow does not decode or whose values it changes."""
    tags, libtiff = image.tag_v2, _libtiff()  # type: ignore[attr-defined]
    compression = tags.get(ExifTags.Base.Compression, 1)
    if SIGNED in tags.get(ExifTags.Base.SampleFormat, ()):
        raise ImageError("unsupported", "TIFF with signed pixels is not supported; save it with unsigned pixels")
    if image.mode == "LAB":
        raise ImageError("unsupported", "TIFF in the color space LAB is not supported; save it as RGB")
    if libtiff and not libtiff.TIFFIsCODECConfigured(ctypes.c_uint16(compression)):
        raise ImageError("unsupported", f"TIFF with compression {compression} is not supported; save it uncompressed")


_lock = threading.Lock()
_decoding = 0  # threads that are within `silent_libtiff`
_handler: Any = None  # libtiff's handler before the first of them


@contextmanager
def silent_libtiff() -> Iterator[None]:
    """Keep libtiff from writing its error messages to stderr while a block runs, in all threads.

    libtiff has one handler for the whole process; it is removed for the block and then restored. Redirecting file
    descriptor 2 instead would lose what other threads write. Pillow reports the errors as exceptions.
    """
    global _decoding, _handler
    libtiff = _libtiff()
    with _lock:
        _decoding += 1
        if _decoding == 1 and libtiff:
            _handler = libtiff.TIFFSetErrorHandler(None)
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if _decoding == 0 and libtiff:
                libtiff.TIFFSetErrorHandler(_handler)


@cache
def _libtiff() -> Any:
    """Return the libtiff that Pillow uses, or None if its functions are not accessible."""
    try:
        library = ctypes.CDLL(_imaging.__file__)  # symbols are looked up in the libraries that it needs, too
        set_handler = library.TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    except (OSError, AttributeError):  # libtiff is linked statically or missing
        return None
    return library
