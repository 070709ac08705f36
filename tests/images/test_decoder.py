"""Decoder: each file gives pixels in the size and channels of the card, or an error with a code."""

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
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.images.limits import MAX_FILE_BYTES

Levels = NDArray[Any]
RGB = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
LUMA = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
GREY, ALPHA, BITS = RGB[:, :, 0], RGB[:, :, 1], RGB[:, :, 2] > 127
LEVELS_16 = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with suppress_pillow_warnings():
        yield


def encode(levels: Levels | Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (levels if isinstance(levels, Image.Image) else Image.fromarray(levels)).save(file, image_format, **options)
    return file.getvalue()


def write(content: bytes, path: str = "a") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)
    return path


def grey(content: bytes, card: ModelCard, *, invert: bool = False) -> Levels:
    """Decode for a grey card; return int pixels (height, width)."""
    pixels = Decoder(card.input, invert=invert)(write(content))
    assert pixels.dtype == np.uint8 and pixels.shape == (1, card.height, card.width)
    return pixels[0].astype(int)


def test_pixels_of_a_color_card_have_channels_first(card: ModelCard) -> None:
    color_card = replace(card, channels=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert np.array_equal(Decoder(color_card.input)(write(encode(RGB))), RGB.transpose(2, 0, 1))
    assert np.array_equal(Decoder(color_card.input, invert=True)(write(encode(GREY))), np.stack([255 - GREY] * 3))


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (333, 51), (9, 9), (10, 13)])
def test_resizing_and_cropping_equal_torchvisions_resize_and_center_crop(size: tuple[int, int]) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    pixels = Decoder(Input(3, 20, 31, resize=37))(levels)
    steps = v2.Compose([v2.Resize(37, v2.InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop((20, 31))])
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(steps(Image.fromarray(levels))))


def test_an_image_that_resizing_would_make_too_large_is_rejected() -> None:
    with pytest.raises(
        ImageError, match="51200000x256 pixels when scaled, over the limit of 16,000,000, 1/4 of --max-pixels"
    ) as caught:
        Decoder(Input(1, 224, 224, resize=256))(np.zeros((1, 200_000), np.uint8))
    assert caught.value.code == "too-large"


def test_the_limit_on_pixels_applies_to_files_but_not_to_the_input_size(card: ModelCard) -> None:
    assert Decoder(card.input, max_pixels=500)(write(encode(GREY[:20, :20]))).shape == (1, 28, 28)
    with pytest.raises(ImageError, match="28x28 pixels = 784, over the limit of 500; raise --max-pixels"):
        Decoder(card.input, max_pixels=500)(write(encode(GREY)))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PGM"])
def test_16_bit_grey_is_scaled_rather_than_clipped(card: ModelCard, image_format: str) -> None:
    pgm = b"P5 28 28 65535\n" + LEVELS_16.astype(">u2").tobytes()
    content = pgm if image_format == "PGM" else encode(LEVELS_16, image_format)
    assert np.array_equal(grey(content, card), np.round(LEVELS_16 * 255.0 / 65535))


def over(background: int, levels: Levels) -> Levels:
    """Composite `levels` with ALPHA over a background, after Porter and Duff."""
    return levels * (ALPHA / 255) + background * (1 - ALPHA / 255)


PALETTE = Image.fromarray(BITS.astype(np.uint8))
PALETTE.putpalette([250, 250, 250, 90, 90, 90])


@pytest.mark.parametrize(
    ("content", "expected", "inverted"),
    [
        (encode(RGB), LUMA, 255 - LUMA),
        (encode(BITS), BITS * 255, 255 - BITS * 255),
        (encode(PALETTE), np.where(BITS, 90, 250), np.where(BITS, 165, 5)),
        (encode(PALETTE, transparency=0), BITS * 90, BITS * 165),
        (encode(PALETTE, "GIF", transparency=0), BITS * 90, BITS * 165),
        (encode(np.dstack([GREY, ALPHA])), over(0, GREY), 255 - over(255, GREY)),
        (encode(np.dstack([RGB, ALPHA])), over(0, LUMA), 255 - over(255, LUMA)),
        (encode(Image.new("CMYK", (28, 28), (0, 0, 0, 155)), "JPEG"), 100, 155),
    ],
    ids=["RGB", "1-bit", "palette", "transparent PNG", "transparent GIF", "LA", "RGBA", "CMYK"],
)
def test_each_mode_becomes_grey_composited_over_black_or_inverted_over_white(
    card: ModelCard, content: bytes, expected: Levels, inverted: Levels
) -> None:
    assert np.abs(grey(content, card) - expected).max() <= 1.5  # rounded twice: by compositing and by conversion
    assert np.abs(grey(content, card, invert=True) - inverted).max() <= 1.5


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_even_if_another_field_is_malformed(card: ModelCard, image_format: str) -> None:
    stored = np.add.outer(np.arange(28) * 6, np.arange(28) * 3).astype(np.uint8)
    upright = [stored, np.fliplr(stored), np.rot90(stored, 2), np.flipud(stored)]
    # orientation 6: the camera was turned left, so the image is rotated to the right
    upright += [stored.T, np.rot90(stored, -1), np.rot90(stored.T, 2), np.rot90(stored)]
    for orientation, expected in enumerate(upright, start=1):
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2)
        exif += struct.pack(">HHI4s", 0x0100, 2, 4, b"abc\0")  # the width as text, which Pillow cannot write
        exif += struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
        metadata = {"tiffinfo": {0x0112: orientation}} if image_format == "TIFF" else {"exif": exif, "quality": 100}
        assert np.abs(grey(encode(stored, image_format, **metadata), card) - expected).max() <= 6


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_only_the_first_frame_is_decoded(card: ModelCard, image_format: str) -> None:
    first, *others = (Image.new("L", (28, 28), level) for level in (50, 150, 250))
    assert np.abs(grey(encode(first, image_format, save_all=True, append_images=others), card) - 50).max() <= 1


def triangle(source: int, target: int) -> Levels:
    """Return the matrix (target, source) of antialiased bilinear interpolation along one side."""
    ratio = source / target
    distance = np.abs((np.arange(target)[:, None] + 0.5) * ratio - np.arange(source) - 0.5) / max(1, ratio)
    matrix = np.clip(1 - distance, 0, None)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(20, 10), (7, 90), (28, 28), (1, 1)])
def test_images_are_stretched_to_the_size_of_the_card(card: ModelCard, height: int, width: int) -> None:
    pixels = grey(encode(GREY[:, :23]), replace(card, height=height, width=width))
    assert np.abs(pixels - triangle(28, height) @ GREY[:, :23] @ triangle(23, width).T).max() <= 1


PNG, JPEG = encode(RGB), encode(RGB, "JPEG")


def png_of(width: int, height: int) -> bytes:
    """Return a small PNG file whose header declares `width` x `height` pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        (b"", "not-an-image", "the file is empty"),
        (
            b"hello, I am text",
            "not-an-image",
            "a text file, not an image; it begins with 'hello, I am text'",
        ),
        (b"\0\1\2", "not-an-image", "cannot be read as one of PNG, JPEG, BMP, GIF, TIFF, WebP, PGM, PPM, AVIF"),
        (PNG[:1000], "truncated", "cannot be decoded: "),
        (PNG[:20], "truncated", "cannot be decoded: "),
        (JPEG[:-400], "truncated", "cannot be decoded: image file is truncated"),
        (PNG[:1000] + bytes(byte ^ 255 for byte in PNG[1000:1010]) + PNG[1010:], "damaged", "cannot be decoded: "),
        (PNG[:20] + bytes([PNG[20] ^ 1]) + PNG[21:], "damaged", "the PNG chunk 'IHDR' has a wrong checksum"),
        (
            png_of(10_000, 10_000),
            "too-large",
            "10000x10000 pixels = 100,000,000, over the limit of 64,000,000; raise --max-pixels",
        ),
        (
            png_of(60_000, 60_000),
            "too-large",
            "60000x60000 pixels = 3,600,000,000, over the limit of 64,000,000",
        ),
        (
            lambda path: os.truncate(write(b"", path), MAX_FILE_BYTES + 1),
            "too-large",
            "67,108,865 bytes, over the limit of 67,108,864; raise --max-bytes",
        ),
        (encode(GREY.astype("f4"), "TIFF"), "unsupported", "32-bit pixels (mode F) have no defined white level"),
        (encode(GREY.astype("i4"), "TIFF"), "unsupported", "TIFF with signed pixels is not supported"),
        (os.mkdir, "unreadable", "is a folder; pass it as an argument, or list the files in it"),
        (os.mkfifo, "unreadable", "is a pipe or a device, not a file"),
        (lambda path: os.symlink("nowhere.png", path), "not-found", "no such file"),
        (lambda path: None, "not-found", "no such file"),
    ],
)
def test_a_file_that_cannot_be_decoded_gives_a_code_and_a_message_and_is_closed(
    card: ModelCard, source: bytes | Callable[[str], None], code: str, message: str
) -> None:
    write(source, "x.png") if isinstance(source, bytes) else source("x.png")
    lowest_free_fd = os.dup(0)
    os.close(lowest_free_fd)
    with pytest.raises(ImageError) as caught:
        Decoder(card.input)("x.png")
    assert caught.value.code == code and message in str(caught.value)
    assert os.dup(0) == lowest_free_fd
    os.close(lowest_free_fd)


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("a\0.png", "the path contains a NUL byte"),
        ("a\ud800.png", "the path is not valid: 'utf-8' codec can't encode character"),
        ("a" * 300, "File name too long"),
    ],
)
def test_a_path_that_cannot_be_opened_is_unreadable_for_the_true_cause(card: ModelCard, path: str, cause: str) -> None:
    with pytest.raises(ImageError, match=f"cannot be read: {cause}") as caught:
        Decoder(card.input)(path)
    assert caught.value.code == "unreadable"


def test_a_file_without_read_permission_is_unreadable(card: ModelCard, tmp_path: Path) -> None:
    write(PNG, "x.png")
    os.chmod("x.png", 0)
    if is_root := os.geteuid() == 0:  # root can read every file
        for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
            os.chmod(folder, folder.stat().st_mode | 0o111)
        os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match="cannot be read: Permission denied") as caught:
            Decoder(card.input)("x.png")
    finally:
        if is_root:
            os.seteuid(0)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_files_give_pixels_or_an_image_error(card: ModelCard, image_format: str) -> None:
    generator, content = random.Random(image_format), encode(RGB, image_format)
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


def plain_image(content: bytes) -> Image.Image | None:
    return png.plain_image(png.needed_chunks(content), max_pixels=10**6)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_flipped_bit_or_a_truncation_of_a_png_file_never_gives_other_pixels(card: ModelCard) -> None:
    """Flip every bit and try every length of one file. Pillow alone gives other pixels for dozens of them."""
    stroke = np.zeros((28, 28), np.uint8)
    stroke[5:23, 13:16] = np.linspace(90, 255, 18, dtype=np.uint8)[:, None]
    stroke[5:8, 8:20] = 200
    content = encode(stroke)
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert np.array_equal(grey(bytes(flipped), card), stroke)
        except ImageError as exc:
            assert exc.code in ("damaged", "truncated", "not-an-image")
    for end in range(len(content)):
        with pytest.raises(ImageError):
            grey(content[:end], card)


ROWS = bytes([0, *[200] * 28]) * 28  # unfiltered rows of one level


@pytest.mark.parametrize(
    ("extra_chunk", "expected"),
    [
        (b"", GREY),
        (png_chunk(b"pHYs", bytes(9)), GREY),
        (png_chunk(b"gAMA", struct.pack(">I", 100_000)), GREY),
        (png_chunk(b"tRNS", struct.pack(">H", int(GREY[0, 0]))), np.where(GREY == GREY[0, 0], 0, GREY)),
        (png_chunk(b"eXIf", b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)), np.rot90(GREY, 2)),
    ],
    ids=["plain", "pHYs", "gAMA", "tRNS", "eXIf"],
)
def test_png_chunks_for_transparency_and_orientation_are_applied_and_others_ignored(
    card: ModelCard, extra_chunk: bytes, expected: Levels
) -> None:
    content = encode(GREY)
    assert np.array_equal(grey(content[:33] + extra_chunk + content[33:], card), expected)


@pytest.mark.parametrize("levels", [GREY, RGB, GREY[:, :5], RGB[:3]], ids=["grey", "color", "narrow", "flat"])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_fast_path_gives_the_same_pixels_as_pillow(levels: Levels, parts: int) -> None:
    content = encode(levels)
    start = content.index(b"IDAT") + 4
    pixels = content[start : start + int.from_bytes(content[start - 8 : start - 4], "big")]
    ends = [len(pixels) * part // parts for part in range(parts + 1)]
    chunks = b"".join(png_chunk(b"IDAT", pixels[ends[part] : ends[part + 1]]) for part in range(parts))
    image = plain_image(content[:33] + chunks + png_chunk(b"IEND", b""))
    assert image is not None and np.array_equal(np.asarray(image), levels)


@pytest.mark.parametrize("levels", [BITS, LEVELS_16, np.dstack([GREY, ALPHA]), np.dstack([RGB, ALPHA])])
def test_the_fast_path_only_decodes_plain_files(levels: Levels) -> None:
    assert plain_image(encode(levels)) is None


@pytest.mark.parametrize("pixels", [zlib.compress(ROWS)[:-9], zlib.compress(ROWS[:-40]), b"", b"not a zlib stream"])
def test_too_few_pixels_are_an_error_even_with_correct_checksums(card: ModelCard, pixels: bytes) -> None:
    content = png_of(28, 28)[:33] + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="cannot be decoded"):
        grey(content, card)
