"""From paths to pixels: find the image files, and decode each into what the card asks for, or say why not."""

import glob
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from nets.card import ModelCard
from nets.errors import ImageError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # Pillow's names; nothing else is tried
ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND", b"\xff\xd8\xff": b"\xff\xd9", b"GIF8": b"\x3b"}  # start and end of such files
LARGEST_FILE = 64 * 2**20  # bytes
LARGEST_IMAGE = 50_000_000  # pixels; with alpha that is 200 MB
TURN = Image.Transpose
UPRIGHT = {  # EXIF's orientation: what sets the image upright
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_90,
}


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
            image = _eight_bit(_upright(_open(content)))
            image = _on_background(image, "white" if invert else "black")
            image = image.convert("L" if card.channels == 1 else "RGB")
            if image.size != (card.width, card.height):
                image = image.resize((card.width, card.height), Image.Resampling.BILINEAR)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError("too-large", "not enough memory to decode it") from None
        except Exception as fault:  # Pillow's decoders raise whatever comes: struct.error, AttributeError, ...
            raise ImageError(_fault_code(content, otherwise="damaged"), f"cannot be decoded: {fault}") from None
    pixels = np.asarray(image).reshape(card.height, card.width, card.channels).transpose(2, 0, 1)
    return 255 - pixels if invert else pixels


def _expand(argument: str) -> list[str]:
    if os.path.lexists(argument) or (argument.lower().endswith(SUFFIXES) and not glob.has_magic(argument)):
        return [argument]  # what is named explicitly is a row, be it there or not
    matches = _outermost(sorted(glob.glob(argument, recursive=True))) if glob.has_magic(argument) else []
    if not matches:
        what = "matches nothing" if glob.has_magic(argument) else "no such file or folder"
        raise UsageError(f"{argument}: {what}")
    return matches


def _outermost(paths: list[str]) -> list[str]:
    """Those `paths` that lie in no other one: `**` matches a folder, and again all that it yields when it is walked."""
    folders = {Path(path) for path in paths if os.path.isdir(path)}
    return [path for path in paths if folders.isdisjoint(Path(path).parents)] if folders else paths


def _walk(folder: str) -> Iterator[str]:
    levels = [_entries(folder)]  # the folders on the way down: no recursion, for they nest deeper than Python's stack
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                levels.append(_entries(path))
                break
            yield path
        else:
            levels.pop()


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Sorted by name, what has an image suffix, and real folders: these with True, to be walked."""
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield folder, False  # as a row, which says why; what lies in it is not passed over in silence
        return
    for name, is_folder in names:
        is_image = name.lower().endswith(SUFFIXES)
        if is_image or is_folder:
            yield os.path.join(folder, name), not is_image


def _read(path: str) -> bytes:
    """The file's bytes. Opens without waiting, so that a pipe without a writer cannot hang the run."""

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
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


def _upright(image: Image.Image) -> Image.Image:
    """As EXIF says that it was held. Pillow's own exif_transpose also writes EXIF anew, which fails where it is odd."""
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _on_background(image: Image.Image, colour: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    background = Image.new("RGBA", image.size, colour)
    return Image.alpha_composite(background, image.convert("RGBA"))
