"""Formats of image files: those that netkit decodes, and names for files of other kinds."""

import re
from io import BytesIO
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError, features

from netkit.core.errors import ImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")  # that Pillow may try
NAMES = "PNG, JPEG, BMP, GIF, TIFF, WebP, PGM, PPM, AVIF, JPEG 2000"
JPEG_2000_STARTS = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
# words in Pillow's messages about formats that it does not decode
UNSUPPORTED = re.compile(
    r"[Uu]nsupported|not supported|not available|cannot handle|unknown pixel mode|unknown raw mode|not installed"
)

TEXT = re.compile(rb"[\t\r\n -~\x80-\xff]+")  # ASCII without control characters, or UTF-8
MAX_QUOTED_BYTES = 40
LIST_OF_PATHS = "to read paths from it, name it .csv or .tsv, or run: netkit infer - < FILE"


class Kind(NamedTuple):
    """A kind of file that is not decoded: its name, and its first bytes, from an offset and without upper case."""

    name: str
    starts: tuple[bytes, ...]
    is_image: bool = False
    offset: int = 0


AVIF_STARTS = (b"ftypavif", b"ftypavis")
KINDS = (
    Kind("an AVIF image", AVIF_STARTS, is_image=True, offset=4),
    Kind("a HEIC photo", (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), is_image=True, offset=4),
    Kind("a Canon raw photo", (b"ftypcrx",), is_image=True, offset=4),
    Kind("an MP4 or QuickTime video", (b"ftyp", b"moov", b"mdat", b"wide"), offset=4),
    Kind("an AVI video", (b"avi ",), offset=8),
    Kind("a Matroska or WebM video", (b"\x1ae\xdf\xa3",)),
    Kind("a JPEG XL image", (b"\xff\x0a", b"\0\0\0\x0cjxl "), is_image=True),
    Kind("a JPEG-LS image", (b"\xff\xd8\xff\xf7",), is_image=True),
    Kind("a Photoshop file", (b"8bps",), is_image=True),
    Kind("an icon", (b"\0\0\1\0",), is_image=True),
    Kind("an SVG drawing", (b"<svg",), is_image=True),
    Kind("an HTML page", (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script", b"<!--")),
    Kind("an XML file", (b"<?xml",)),
    Kind("a Git LFS pointer, not the image; run git lfs pull", (b"version https://git-lfs",)),
    Kind("a PDF document", (b"%pdf",)),
    Kind("a PostScript file", (b"%!ps",)),
    Kind("a ZIP archive", (b"pk\3\4",)),
    Kind("a gzip archive", (b"\x1f\x8b",)),
)


def foreign_kind(content: bytes) -> ImageError | None:
    """Return the exception that names the kind of file, if it is a known kind that is not decoded."""
    start = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<?xml") and b"<svg" in start:
        start = start[start.index(b"<svg") :]
    if start.startswith(AVIF_STARTS, 4) and features.check("avif"):
        return None  # a damaged one
    for kind in KINDS:
        if start.startswith(kind.starts, kind.offset):
            if kind.is_image:
                return ImageError("unsupported", f"{kind.name}, which netkit does not decode; save it as JPEG or PNG")
            return ImageError("not-an-image", kind.name)
    return None


def unknown_kind(content: bytes) -> ImageError:
    """Return the exception for a file of no known kind. For a text file, such as an error message, it quotes it."""
    if TEXT.fullmatch(content, 0, 512):
        text = content[:MAX_QUOTED_BYTES].decode("utf-8", "replace").strip()
        return ImageError("not-an-image", f"a text file, not an image; it begins with {text!r}", fix=LIST_OF_PATHS)
    return ImageError("not-an-image", f"cannot be read as one of {NAMES}")


def cause(file: BytesIO) -> Exception:
    """Return why Pillow does not open a file: the exception of the first format that has its signature.

    Image.open() raises UnidentifiedImageError instead, without a cause. It is returned for files without a signature.
    """
    start = file.getvalue()[:16]
    for name in FORMATS:
        open_image, has_signature = Image.OPEN[name]
        if has_signature and has_signature(start):
            file.seek(0)
            try:
                open_image(file, "")
            except Exception as exc:
                message = str(exc)
                return ValueError(f"compression {message} is not supported") if message.isdigit() else exc
    return UnidentifiedImageError()
