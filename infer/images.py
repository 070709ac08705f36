"""From paths to pixels: find the image files, and decode each into what the card asks for, or say why not."""

import glob
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nets.card import ModelCard
from nets.errors import ImageError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # Pillow's names; nothing else is tried
ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND", b"\xff\xd8\xff": b"\xff\xd9", b"GIF8": b"\x3b"}  # start and end of such files
LARGEST_FILE = 64 * 2**20  # bytes
LARGEST_IMAGE = 50_000_000  # pixels; with alpha that is 200 MB


def find(arguments: Sequence[str]) -> Iterator[str]:
    """The paths of all inputs, in order: files as named, folders walked, globs expanded in sorted order.

    A folder yields every entry with an image suffix, whatever it is, and walks its real subfolders; one folder's names
    are in memory at a time. Raises UsageError, before the first path, where an argument names nothing at all.
    """
    starts = [start for argument in arguments for start in _expand(argument)]
    for start in starts:
        if os.path.isdir(start) and next(_walk(start), None) is None:
            raise UsageError(f"{start}: no images in this folder (looked for {', '.join(SUFFIXES)})")
    return (path for start in starts for path in (_walk(start) if os.path.isdir(start) else (start,)))


def decode(path: str, card: ModelCard, *, invert: bool = False) -> NDArray[np.uint8]:
    """The image in the file `path` as the card has it: uint8 (channels, height, width).

    Orientation follows EXIF, the first frame stands for all, 16-bit grey is scaled to 8, alpha lies on black (on white
    with `invert`), grey is ITU-R 601 luma; then the image is stretched to the card's size (bilinear, antialiased), and
    with `invert` dark and light are swapped. Raises ImageError with a code where there are no pixels to be had.
    """
    content = _read(path)
    if not content:
        raise ImageError("not-an-image", "an empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns of either decodes or raises
        try:
            image = _open(content)
            image = ImageOps.exif_transpose(image)
            image = _on_background(_eight_bit(image), "white" if invert else "black")
            image = image.convert("L" if card.channels == 1 else "RGB")
            if image.size != (card.width, card.height):
                image = image.resize((card.width, card.height), Image.Resampling.BILINEAR)
        except MemoryError:
            raise ImageError("too-large", "not enough memory to decode it") from None
        except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError) as fault:
            raise ImageError(_fault_code(content, otherwise="damaged"), f"cannot be decoded: {fault}") from None
    pixels = np.asarray(image).reshape(card.height, card.width, card.channels).transpose(2, 0, 1)
    return 255 - pixels if invert else pixels


def _expand(argument: str) -> list[str]:
    if os.path.lexists(argument) or (argument.lower().endswith(SUFFIXES) and not glob.has_magic(argument)):
        return [argument]  # what is named explicitly is a row, be it there or not
    matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
    if not matches:
        what = "matches nothing" if glob.has_magic(argument) else "no such file or folder"
        raise UsageError(f"{argument}: {what}")
    return matches


def _walk(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield folder  # as a row, which says why; what lies in it is not passed over in silence
        return
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if name.lower().endswith(SUFFIXES):
            yield path
        elif is_folder:
            yield from _walk(path)


def _read(path: str) -> bytes:
    """The file's bytes. Opens without waiting, so that a pipe without a writer cannot hang the run."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable", "not a regular file")
            if status.st_size > LARGEST_FILE:
                raise ImageError("too-large", f"{status.st_size:,} bytes, over the limit of {LARGEST_FILE:,}")
            return file.read(LARGEST_FILE)
    except FileNotFoundError:
        raise ImageError("vanished", "no such file") from None
    except (OSError, ValueError) as fault:
        raise ImageError("unreadable", f"cannot be read: {getattr(fault, 'strerror', None) or fault}") from None


def _open(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            _fault_code(content, otherwise="not-an-image"), f"cannot be read as one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError("too-large", f"over the limit of {LARGEST_IMAGE:,} pixels") from None
    if image.width * image.height > LARGEST_IMAGE:
        raise ImageError("too-large", f"{image.width}x{image.height}, over the limit of {LARGEST_IMAGE:,} pixels")
    image.load()
    return image


def _fault_code(content: bytes, *, otherwise: str) -> str:
    """What ails an image that cannot be decoded, by its first bytes and the mark that its format ends with."""
    for start, end in ENDS.items():
        if content.startswith(start):
            return "damaged" if end in content[-64:] else "truncated"
    return otherwise


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as 8 bits, which convert("L") would saturate; 32 bits have no agreed white, and are refused."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(
            "unsupported", f"pixels of 32 bits (mode {image.mode}) have no agreed white; save it as 8 or 16"
        )
    return image


def _on_background(image: Image.Image, colour: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    background = Image.new("RGBA", image.size, colour)
    return Image.alpha_composite(background, image.convert("RGBA"))
