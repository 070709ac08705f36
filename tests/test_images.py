"""From paths to pixels: which files are found, and that each gives the pixels that the card wants or says why not."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infer.images import LARGEST_FILE, decode, find
from nets.card import ModelCard
from nets.errors import ImageError, UsageError

Levels = NDArray[Any]
RGB = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
LUMA = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
GREY, ALPHA, BITS = RGB[:, :, 0], RGB[:, :, 1], RGB[:, :, 2] > 127
LEVELS_16 = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def encoded(levels: Levels | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (levels if isinstance(levels, Image.Image) else Image.fromarray(levels)).save(file, form, **options)
    return file.getvalue()


def write(content: bytes, path: str = "a") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)
    return path


def grey(content: bytes, card: ModelCard, *, invert: bool = False) -> Levels:
    """The pixels for a grey card, (height, width), as numbers that do not wrap."""
    pixels = decode(write(content), card, invert=invert)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, card.height, card.width)
    return pixels[0].astype(int)


def test_a_colour_card_gets_channels_rows_columns(card: ModelCard) -> None:
    colour = replace(card, channels=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert np.array_equal(decode(write(encoded(RGB)), colour), RGB.transpose(2, 0, 1))
    assert np.array_equal(decode(write(encoded(GREY)), colour, invert=True), np.stack([255 - GREY] * 3))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PGM"])
def test_grey_of_16_bits_is_scaled_and_not_saturated(card: ModelCard, form: str) -> None:
    pgm = b"P5 28 28 65535\n" + LEVELS_16.astype(">u2").tobytes()
    content = pgm if form == "PGM" else encoded(LEVELS_16, form)
    assert np.array_equal(grey(content, card), np.round(LEVELS_16 * 255.0 / 65535))


def over(background: int, levels: Levels) -> Levels:
    """What is seen of `levels` with ALPHA before a background, after Porter and Duff."""
    return levels * (ALPHA / 255) + background * (1 - ALPHA / 255)


PALETTE = Image.fromarray(BITS.astype(np.uint8))
PALETTE.putpalette([250, 250, 250, 90, 90, 90])


@pytest.mark.parametrize(
    ("content", "expected", "inverted"),
    [
        (encoded(RGB), LUMA, 255 - LUMA),
        (encoded(BITS), BITS * 255, 255 - BITS * 255),
        (encoded(PALETTE), np.where(BITS, 90, 250), np.where(BITS, 165, 5)),
        (encoded(PALETTE, transparency=0), BITS * 90, BITS * 165),
        (encoded(PALETTE, "GIF", transparency=0), BITS * 90, BITS * 165),
        (encoded(np.dstack([GREY, ALPHA])), over(0, GREY), 255 - over(255, GREY)),
        (encoded(np.dstack([RGB, ALPHA])), over(0, LUMA), 255 - over(255, LUMA)),
        (encoded(Image.new("CMYK", (28, 28), (0, 0, 0, 155)), "JPEG"), 100, 155),
    ],
    ids=["RGB", "1-bit", "palette", "clear PNG", "clear GIF", "LA", "RGBA", "CMYK"],
)
def test_each_mode_becomes_grey_with_alpha_on_black_or_inverted_on_white(
    card: ModelCard, content: bytes, expected: Levels, inverted: Levels
) -> None:
    assert np.abs(grey(content, card) - expected).max() <= 1.5  # rounded twice: by alpha, and to grey
    assert np.abs(grey(content, card, invert=True) - inverted).max() <= 1.5


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_follows_exif_beside_an_odd_field_too(card: ModelCard, form: str) -> None:
    stored = np.add.outer(np.arange(28) * 6, np.arange(28) * 3).astype(np.uint8)
    upright = [stored, np.fliplr(stored), np.rot90(stored, 2), np.flipud(stored)]
    # 6: the camera was turned left, so turn the picture right
    upright += [stored.T, np.rot90(stored, -1), np.rot90(stored.T, 2), np.rot90(stored)]
    for orientation, expected in enumerate(upright, start=1):
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2)
        exif += struct.pack(">HHI4s", 0x0100, 2, 4, b"abc\0")  # the width, in letters: Pillow could not write that
        exif += struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
        told = {"tiffinfo": {0x0112: orientation}} if form == "TIFF" else {"exif": exif, "quality": 100}
        assert np.abs(grey(encoded(stored, form, **told), card) - expected).max() <= 6


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_stands_for_all(card: ModelCard, form: str) -> None:
    first, *others = (Image.new("L", (28, 28), level) for level in (50, 150, 250))
    assert np.abs(grey(encoded(first, form, save_all=True, append_images=others), card) - 50).max() <= 1


def triangle(source: int, target: int) -> Levels:
    """The matrix (target, source) of linear interpolation, widened where it shrinks: bilinear with antialiasing."""
    ratio = source / target
    distance = np.abs((np.arange(target)[:, None] + 0.5) * ratio - np.arange(source) - 0.5) / max(1, ratio)
    matrix = np.clip(1 - distance, 0, None)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(20, 10), (7, 90), (28, 28), (1, 1)])
def test_any_image_is_stretched_to_the_cards_size(card: ModelCard, height: int, width: int) -> None:
    pixels = grey(encoded(GREY[:, :23]), replace(card, height=height, width=width))
    assert np.abs(pixels - triangle(28, height) @ GREY[:, :23] @ triangle(23, width).T).max() <= 1


PNG, JPEG = encoded(RGB), encoded(RGB, "JPEG")


def png_of(width: int, height: int) -> bytes:
    """A small PNG file that says that it holds that many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.mark.parametrize(
    ("made", "code", "says"),
    [
        (b"", "not-an-image", "an empty file"),
        (b"hello, I am text", "not-an-image", "cannot be read as one of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM"),
        (encoded(RGB, "ICO"), "not-an-image", "cannot be read as one of PNG"),
        (PNG[:1000], "truncated", "cannot be decoded: "),
        (PNG[:20], "truncated", "cannot be decoded: "),
        (JPEG[:-400], "truncated", "cannot be decoded: image file is truncated"),
        (PNG[:1000] + bytes(byte ^ 255 for byte in PNG[1000:1010]) + PNG[1010:], "damaged", "cannot be decoded: "),
        (png_of(10_000, 10_000), "too-large", "10000x10000, over the limit of 50,000,000 pixels"),
        (png_of(60_000, 60_000), "too-large", "over the limit of 50,000,000 pixels"),
        (lambda x: os.truncate(write(b"", x), LARGEST_FILE + 1), "too-large", "67,108,865 bytes, over the limit of 67"),
        (encoded(GREY.astype("f4"), "TIFF"), "unsupported", "pixels of 32 bits (mode F) have no agreed white"),
        (encoded(GREY.astype("i4"), "TIFF"), "unsupported", "pixels of 32 bits (mode I) have no agreed white"),
        (os.mkdir, "unreadable", "cannot be read: Is a directory"),
        (os.mkfifo, "unreadable", "not a regular file"),
        (lambda x: os.symlink("nowhere.png", x), "vanished", "no such file"),
        (lambda x: None, "vanished", "no such file"),
    ],
)
def test_what_gives_no_pixels_says_why_with_a_code_and_leaves_no_file_open(
    card: ModelCard, made: bytes | Callable[[str], None], code: str, says: str
) -> None:
    write(made, "x.png") if isinstance(made, bytes) else made("x.png")
    free = os.dup(0)  # the lowest number that no open file has
    os.close(free)
    with pytest.raises(ImageError) as caught:
        decode("x.png", card)
    assert caught.value.code == code and says in str(caught.value)
    assert os.dup(0) == free
    os.close(free)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_bytes_give_pixels_or_an_image_error_and_nothing_else(card: ModelCard, form: str) -> None:
    chance, content = random.Random(form), encoded(RGB, form)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 20))):
            damaged[chance.randrange(chance.choice((200, len(content))))] ^= 1 << chance.randrange(8)
        write(bytes(damaged[: chance.choice((None, None, chance.randrange(len(content))))]))
        try:
            pixels = decode("a", card)
            assert pixels.shape == (1, 28, 28) and pixels.dtype == np.uint8
        except ImageError as fault:
            assert fault.code in ("not-an-image", "truncated", "damaged", "too-large", "unsupported")


def test_a_folder_yields_what_has_an_image_suffix_and_walks_real_folders(card: ModelCard) -> None:
    not_utf8 = os.fsdecode(b"\xff\xfe.png")
    for name in ("a/z.png", "a-b/y.tiff", "B/x.WebP", "b.PNG", "c.jpeg", "d.txt", "png", "g.png/in.png", not_utf8):
        write(PNG, f"in/{name}")
    write(PNG, "o/o.png")
    os.mkfifo("in/pipe.png")
    for name, target in (("e.png", "b.PNG"), ("f.png", "nowhere"), ("linked", "../o"), ("loop", ".")):
        os.symlink(target, f"in/{name}")
    found = ["B/x.WebP", "a/z.png", "a-b/y.tiff", "b.PNG", "c.jpeg", "e.png", "f.png", "g.png", "pipe.png", not_utf8]
    assert list(find(["in"])) == [f"in/{name}" for name in found]
    assert decode(f"in/{not_utf8}", card).shape == (1, 28, 28)
    named = ["in/linked", "in/d.txt", "o", "o/o.png", "no.PNG"]
    assert list(find(named)) == ["in/linked/o.png", "in/d.txt", "o/o.png", "o/o.png", "no.PNG"]


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("in/[ab].png", ["in/[ab].png"]),  # there is a file of that very name
        ("in/?.png", ["in/a.png", "in/b.png"]),
        ("in/s*", ["in/sub/c.png"]),
        ("**/*.png", ["in/[ab].png", "in/a.png", "in/b.png", "in/sub/c.png"]),
        ("in/**", ["in/[ab].png", "in/a.png", "in/b.png", "in/sub/c.png"]),  # once, not once a folder
        ("in/notes", "in/notes: no images in this folder (looked for .png, .jpg"),
        ("nowhere", "nowhere: no such file or folder"),
        ("in/*.gif", "in/*.gif: matches nothing"),
    ],
)
def test_globs_find_each_file_once_in_order_and_what_names_nothing_is_refused_at_once(
    argument: str, found: list[str] | str
) -> None:
    for name in ("b.png", "a.png", "[ab].png", "t.txt", "sub/c.png", "notes/n.txt"):
        write(PNG, f"in/{name}")
    if isinstance(found, list):
        assert list(find([argument])) == found
    else:
        with pytest.raises(UsageError) as caught:
            find(["in/a.png", argument])
        assert str(caught.value).startswith(found)


def test_folders_nested_deeper_than_python_recurses_are_walked() -> None:
    folders = ["d" + "/d" * depth for depth in range(1200)]
    for folder in folders:
        os.mkdir(folder)
    path = write(PNG, f"{folders[-1]}/x.png")
    try:
        assert list(find(["d"])) == [path]
    finally:  # not left to pytest, whose cleaning recurses
        os.unlink(path)
        for folder in reversed(folders):
            os.rmdir(folder)


def test_a_folder_that_cannot_be_listed_is_a_row_that_says_so(card: ModelCard, tmp_path: Path) -> None:
    for _ in range(20):  # in all longer than a path may be
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(tmp_path)
    (row,) = find(["."])
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        decode(row, card)
