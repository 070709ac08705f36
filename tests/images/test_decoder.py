"""From paths to pixels: each file gives the pixels that the card describes, or an error with a code."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from netkit.core.errors import ImageError
from netkit.core.model_card import Input, ModelCard
from netkit.images import png
from netkit.images.decoder import MAX_FILE_BYTES, Decoder, pillow_silenced

Levels = NDArray[Any]
RGB = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
LUMA = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
GREY, ALPHA, BITS = RGB[:, :, 0], RGB[:, :, 1], RGB[:, :, 2] > 127
LEVELS_16 = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with pillow_silenced():
        yield


def encoded(levels: Levels | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (levels if isinstance(levels, Image.Image) else Image.fromarray(levels)).save(file, form, **options)
    return file.getvalue()


def write(content: bytes, path: str = "a") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)
    return path


def grey(content: bytes, card: ModelCard, *, invert: bool = False) -> Levels:
    """The pixels for a grey card, (height, width), as int."""
    pixels = Decoder(card.input, invert=invert)(write(content))
    assert pixels.dtype == np.uint8 and pixels.shape == (1, card.height, card.width)
    return pixels[0].astype(int)


def test_pixels_of_a_colour_card_are_channels_rows_columns(card: ModelCard) -> None:
    colour = replace(card, channels=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert np.array_equal(Decoder(colour.input)(write(encoded(RGB))), RGB.transpose(2, 0, 1))
    assert np.array_equal(Decoder(colour.input, invert=True)(write(encoded(GREY))), np.stack([255 - GREY] * 3))


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (333, 51), (9, 9), (10, 13)])
def test_resizing_and_cutting_equal_torchvisions_resize_and_center_crop(size: tuple[int, int]) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    ours = Decoder(Input(3, 20, 31, resize=37))(levels)
    steps = v2.Compose([v2.Resize(37, v2.InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop((20, 31))])
    assert np.array_equal(ours.transpose(1, 2, 0), np.asarray(steps(Image.fromarray(levels))))


def test_a_strip_that_scaling_would_make_too_large_is_refused() -> None:
    with pytest.raises(ImageError, match="51200000x256 when scaled, over the limit of 24,000,000 pixels") as refused:
        Decoder(Input(1, 224, 224, resize=256))(np.zeros((1, 200_000), np.uint8))
    assert refused.value.code == "too-large"


def test_the_limit_on_pixels_applies_to_files_but_not_to_the_input_size(card: ModelCard) -> None:
    assert Decoder(card.input, largest_image=500)(write(encoded(GREY[:20, :20]))).shape == (1, 28, 28)
    with pytest.raises(ImageError, match="over the limit of 500 pixels"):
        Decoder(card.input, largest_image=500)(write(encoded(GREY)))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PGM"])
def test_16_bit_grey_is_scaled_rather_than_clipped(card: ModelCard, form: str) -> None:
    pgm = b"P5 28 28 65535\n" + LEVELS_16.astype(">u2").tobytes()
    content = pgm if form == "PGM" else encoded(LEVELS_16, form)
    assert np.array_equal(grey(content, card), np.round(LEVELS_16 * 255.0 / 65535))


def over(background: int, levels: Levels) -> Levels:
    """`levels` with ALPHA composited over a background, after Porter and Duff."""
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
def test_each_mode_becomes_grey_with_alpha_over_black_or_inverted_over_white(
    card: ModelCard, content: bytes, expected: Levels, inverted: Levels
) -> None:
    assert np.abs(grey(content, card) - expected).max() <= 1.5  # rounded twice: by alpha, and to grey
    assert np.abs(grey(content, card, invert=True) - inverted).max() <= 1.5


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_even_beside_a_malformed_field(card: ModelCard, form: str) -> None:
    stored = np.add.outer(np.arange(28) * 6, np.arange(28) * 3).astype(np.uint8)
    upright = [stored, np.fliplr(stored), np.rot90(stored, 2), np.flipud(stored)]
    # 6: the camera was turned left, so turn the picture right
    upright += [stored.T, np.rot90(stored, -1), np.rot90(stored.T, 2), np.rot90(stored)]
    for orientation, expected in enumerate(upright, start=1):
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2)
        exif += struct.pack(">HHI4s", 0x0100, 2, 4, b"abc\0")  # the width, in letters: Pillow could not write that
        exif += struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
        metadata = {"tiffinfo": {0x0112: orientation}} if form == "TIFF" else {"exif": exif, "quality": 100}
        assert np.abs(grey(encoded(stored, form, **metadata), card) - expected).max() <= 6


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_only_the_first_frame_is_decoded(card: ModelCard, form: str) -> None:
    first, *others = (Image.new("L", (28, 28), level) for level in (50, 150, 250))
    assert np.abs(grey(encoded(first, form, save_all=True, append_images=others), card) - 50).max() <= 1


def triangle(source: int, target: int) -> Levels:
    """The matrix (target, source) of bilinear interpolation with antialiasing, along one side."""
    ratio = source / target
    distance = np.abs((np.arange(target)[:, None] + 0.5) * ratio - np.arange(source) - 0.5) / max(1, ratio)
    matrix = np.clip(1 - distance, 0, None)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(20, 10), (7, 90), (28, 28), (1, 1)])
def test_images_are_stretched_to_the_size_of_the_card(card: ModelCard, height: int, width: int) -> None:
    pixels = grey(encoded(GREY[:, :23]), replace(card, height=height, width=width))
    assert np.abs(pixels - triangle(28, height) @ GREY[:, :23] @ triangle(23, width).T).max() <= 1


PNG, JPEG = encoded(RGB), encoded(RGB, "JPEG")


def png_of(width: int, height: int) -> bytes:
    """A small PNG file whose header claims that many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.mark.parametrize(
    ("made", "code", "message"),
    [
        (b"", "not-an-image", "an empty file"),
        (b"hello, I am text", "not-an-image", "cannot be read as one of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM"),
        (encoded(RGB, "ICO"), "not-an-image", "cannot be read as one of PNG"),
        (PNG[:1000], "truncated", "cannot be decoded: "),
        (PNG[:20], "truncated", "cannot be decoded: "),
        (JPEG[:-400], "truncated", "cannot be decoded: image file is truncated"),
        (PNG[:1000] + bytes(byte ^ 255 for byte in PNG[1000:1010]) + PNG[1010:], "damaged", "cannot be decoded: "),
        (png_of(10_000, 10_000), "too-large", "10000x10000, over the limit of 24,000,000 pixels"),
        (png_of(60_000, 60_000), "too-large", "over the limit of 24,000,000 pixels"),
        (
            lambda x: os.truncate(write(b"", x), MAX_FILE_BYTES + 1),
            "too-large",
            "67,108,865 bytes, over the limit of 67",
        ),
        (encoded(GREY.astype("f4"), "TIFF"), "unsupported", "pixels of 32 bits (mode F) have no agreed white"),
        (encoded(GREY.astype("i4"), "TIFF"), "unsupported", "pixels of 32 bits (mode I) have no agreed white"),
        (os.mkdir, "unreadable", "not a regular file"),
        (os.mkfifo, "unreadable", "not a regular file"),
        (lambda x: os.symlink("nowhere.png", x), "vanished", "no such file"),
        (lambda x: None, "vanished", "no such file"),
    ],
)
def test_a_file_without_pixels_gives_a_code_and_a_message_and_is_closed(
    card: ModelCard, made: bytes | Callable[[str], None], code: str, message: str
) -> None:
    write(made, "x.png") if isinstance(made, bytes) else made("x.png")
    free = os.dup(0)  # the lowest free file descriptor
    os.close(free)
    with pytest.raises(ImageError) as caught:
        Decoder(card.input)("x.png")
    assert caught.value.code == code and message in str(caught.value)
    assert os.dup(0) == free
    os.close(free)


def test_a_file_without_read_permission_says_so(card: ModelCard, tmp_path: Path) -> None:
    write(PNG, "x.png")
    os.chmod("x.png", 0)
    if root := os.geteuid() == 0:  # root may read every file
        for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
            os.chmod(folder, folder.stat().st_mode | 0o111)
        os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match="cannot be read: Permission denied") as caught:
            Decoder(card.input)("x.png")
    finally:
        if root:
            os.seteuid(0)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_files_give_pixels_or_an_image_error_and_no_other_exception(card: ModelCard, form: str) -> None:
    generator, content = random.Random(form), encoded(RGB, form)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 3, 20))):
            damaged[generator.randrange(generator.choice((200, len(content))))] ^= 1 << generator.randrange(8)
        write(bytes(damaged[: generator.choice((None, None, generator.randrange(len(content))))]))
        try:
            pixels = Decoder(card.input)("a")
            assert pixels.shape == (1, 28, 28) and pixels.dtype == np.uint8
        except ImageError as exc:
            assert exc.code in ("not-an-image", "truncated", "damaged", "too-large", "unsupported")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_png_file_with_a_flipped_bit_or_cut_short_never_gives_other_pixels(card: ModelCard) -> None:
    """Tries every bit and every length of one file. Pillow alone gives other pixels for dozens of them."""
    stroke = np.zeros((28, 28), np.uint8)
    stroke[5:23, 13:16] = np.linspace(90, 255, 18, dtype=np.uint8)[:, None]
    stroke[5:8, 8:20] = 200
    content = encoded(stroke)
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        try:
            assert np.array_equal(grey(bytes(flipped), card), stroke)
        except ImageError as exc:
            assert exc.code in ("damaged", "truncated", "not-an-image")
    for end in range(len(content)):
        with pytest.raises(ImageError):
            grey(content[:end], card)


LEVEL = bytes([0, *[200] * 28]) * 28  # unfiltered rows of one level


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (b"", GREY),
        (png_chunk(b"pHYs", bytes(9)), GREY),
        (png_chunk(b"gAMA", struct.pack(">I", 100_000)), GREY),
        (png_chunk(b"tRNS", struct.pack(">H", int(GREY[0, 0]))), np.where(GREY == GREY[0, 0], 0, GREY)),
        (png_chunk(b"eXIf", b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)), np.rot90(GREY, 2)),
    ],
    ids=["plain", "pHYs", "gAMA", "tRNS", "eXIf"],
)
def test_chunks_that_change_pixels_are_applied(card: ModelCard, more: bytes, expected: Levels) -> None:
    content = encoded(GREY)
    assert np.array_equal(grey(content[:33] + more + content[33:], card), expected)


@pytest.mark.parametrize("levels", [GREY, RGB, GREY[:, :5], RGB[:3]], ids=["grey", "colour", "narrow", "flat"])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_fast_path_gives_the_same_pixels_as_pillow(levels: Levels, parts: int) -> None:
    content = encoded(levels)
    start = content.index(b"IDAT") + 4
    pixels = content[start : start + int.from_bytes(content[start - 8 : start - 4], "big")]
    cuts = [len(pixels) * part // parts for part in range(parts + 1)]
    split = b"".join(png_chunk(b"IDAT", pixels[cuts[part] : cuts[part + 1]]) for part in range(parts))
    image = png.plain_image(content[:33] + split + png_chunk(b"IEND", b""), max_pixels=10**6)
    assert image is not None and np.array_equal(np.asarray(image), levels)


@pytest.mark.parametrize("levels", [BITS, LEVELS_16, np.dstack([GREY, ALPHA]), np.dstack([RGB, ALPHA])])
def test_the_fast_path_is_only_for_plain_files(levels: Levels) -> None:
    assert png.plain_image(encoded(levels), max_pixels=10**6) is None


@pytest.mark.parametrize("pixels", [zlib.compress(LEVEL)[:-9], zlib.compress(LEVEL[:-40]), b"", b"no zlib stream"])
def test_too_few_pixels_are_an_error_even_with_correct_checksums(card: ModelCard, pixels: bytes) -> None:
    content = png_of(28, 28)[:33] + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="cannot be decoded"):
        grey(content, card)
