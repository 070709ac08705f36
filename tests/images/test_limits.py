"""Limits on image files: files are decoded up to each limit and rejected above it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from netkit.core.errors import ImageError
from netkit.core.model_card import ModelCard
from netkit.images.decoder import Decoder
from netkit.images.jpeg import MAX_SCANS, SCAN, SCANS_PER_COST, image_end
from netkit.images.limits import (
    AVIF_COST,
    COPY_COST,
    JPEG_2000_COST,
    MAX_AVIF_BYTES,
    MAX_CHEAP_ROWS,
    MAX_HEADER_BYTES,
    MAX_JPEG_2000_BYTES,
    MAX_WEBP_BYTES,
    MIN_ROW_COST,
    SLOW_COST,
    WEBP_COST,
    BoundedFile,
    decoding_cost,
    pixel_cost,
)

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
TEXT = b" ".join(b"%d" % level for level in LEVELS.ravel())
BITS = LEVELS > 127


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P2\n# by hand\n7 5\n255\n" + TEXT, LEVELS),
        (b"P2 7 5 255\n" + TEXT.replace(b" ", b" # a level\n"), LEVELS),
        (b"P2 7#\r5 #\n#\n255 " + TEXT + b"# the end", LEVELS),
        (b"P5 # 1 2 3\n7 5\n#\n255\n" + LEVELS.tobytes(), LEVELS),
        (b"P5 7 5 255 " + b"#" * 35, np.full((5, 7), ord("#"))),  # pixels, not a comment
        (b"P1 7 5\n" + b"".join(b"%d" % (not bit) for bit in BITS.ravel()), BITS * 255),
        (b"P4\n7 5 " + np.packbits(~BITS, axis=1).tobytes(), BITS * 255),
        (b"P5 7 5 100\n" + (LEVELS % 101).tobytes(), np.rint((LEVELS % 101) * 2.55)),
    ],
)
def test_grey_netpbm_files_are_decoded_with_or_without_comments(
    card: ModelCard, tmp_path: Path, content: bytes, expected: NDArray[np.generic]
) -> None:
    (tmp_path / "a.pgm").write_bytes(content)
    decoder = Decoder(replace(card, height=5, width=7).input)
    assert np.array_equal(decoder(str(tmp_path / "a.pgm"))[0], expected)


@pytest.mark.parametrize(
    "content", [b"PK\3\4 a zip", b"P7\nWIDTH 7\n", b"Pf 7 5 1.0 ", b"P5", b"P2 7 5", b"P5 7x5 255 ", b"P2 7 5##WEBP"]
)
def test_content_that_only_starts_like_a_netpbm_file_is_not_an_image(content: bytes) -> None:
    with pytest.raises(UnidentifiedImageError):
        BoundedFile(content, max_pixels=10**6)


def test_the_limit_on_bytes_applies_to_the_header_but_not_to_the_pixels() -> None:
    file = BoundedFile(b"GIF8" + bytes(2 * MAX_HEADER_BYTES), max_pixels=10**6)
    file.read(MAX_HEADER_BYTES)
    with pytest.raises(ImageError, match="a header of over 2,097,152 bytes or 400,000 parts") as caught:
        file.read(1)
    assert caught.value.code == "too-large"
    file.end_header()
    assert len(file.read()) == MAX_HEADER_BYTES + 3


def test_a_jpeg_file_may_have_the_maximum_number_of_scans_but_no_more() -> None:
    BoundedFile(b"\xff\xd8\xff" + SCAN * MAX_SCANS, max_pixels=10**6)
    with pytest.raises(ImageError, match="JPEG with 101 scans, over the limit of 100"):
        BoundedFile(b"\xff\xd8\xff" + SCAN * (MAX_SCANS + 1), max_pixels=10**6)


SCANS = SCAN * (MAX_SCANS + 1)
ARITHMETIC_FRAME = b"\xff\xc9\0\x0b\x08" + bytes(8)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(LEVELS).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("trailer", [SCANS, ARITHMETIC_FRAME, np.random.default_rng(1).bytes(3_000_000)])
def test_data_after_a_jpeg_image_does_not_count(jpeg: bytes, trailer: bytes) -> None:
    """Motion photos, for example, have a video after the image."""
    file = BoundedFile(jpeg + trailer, max_pixels=10**6)
    with Image.open(file) as image:
        assert decoding_cost(image, file) == 35


@pytest.mark.parametrize("segment", [b"\xff\xfe\0\4\xff\xd9", b"\xff\xe1\0\7\xff\xd9\xff\xd9\0", b"\xff\0\xd9"])
def test_only_a_marker_outside_of_segments_ends_a_jpeg_image(jpeg: bytes, segment: bytes) -> None:
    assert image_end(jpeg) == len(jpeg) - 2
    with pytest.raises(ImageError, match="JPEG with 102 scans, over the limit of 100"):
        BoundedFile(jpeg[:-2] + segment + SCANS + jpeg[-2:], max_pixels=10**6)
    for start in (jpeg[:2], jpeg[:-2]):
        with pytest.raises(ImageError, match="JPEG with over 10,000 segments"):
            image_end(start + b"\xff\xfe\0\2" * 10_000 + jpeg[2:])


@pytest.mark.parametrize(
    ("chunk", "max_bytes"), [(b"VP8L", 2_000_000), (b"VP8 ....ALPH", 2_000_000), (b"VP8 ", MAX_WEBP_BYTES)]
)
def test_lossless_webp_files_have_a_lower_limit_on_bytes_than_lossy_ones(chunk: bytes, max_bytes: int) -> None:
    start = b"RIFF....WEBP" + chunk
    BoundedFile(start + bytes(max_bytes - len(start)), max_pixels=26_000_000)
    with pytest.raises(ImageError, match=f"WebP of {max_bytes + 1:,} bytes, over the limit of {max_bytes:,}"):
        BoundedFile(start + bytes(max_bytes - len(start) + 1), max_pixels=26_000_000)


def test_a_small_lossless_webp_file_is_accepted_even_if_the_limit_on_pixels_is_low() -> None:
    BoundedFile(b"RIFF....WEBPVP8L" + bytes(1000), max_pixels=784)


@pytest.mark.parametrize("before", [b"", b"\xff" * 9, b"\xff\0" * 9, b"\xff\xd0", b"\xff\xe1\0\4\xff\xc0", b"junk"])
def test_arithmetic_coding_is_detected_regardless_of_the_bytes_before_the_frame(before: bytes) -> None:
    start, frame = b"\xff\xd8\xff\xe0\0\2", ARITHMETIC_FRAME
    with pytest.raises(
        ImageError, match="JPEG with arithmetic, lossless or hierarchical coding is not supported"
    ) as caught:
        BoundedFile(start + before + frame, max_pixels=10**6)
    assert caught.value.code == "unsupported"
    BoundedFile(start + before + frame.replace(b"\xc9", b"\xc2"), max_pixels=10**6)


@pytest.mark.parametrize(
    ("image_format", "pixel_factor", "byte_factor"),
    [
        ("PNG", 1, 0),
        ("JPEG", 1, 0),
        ("WEBP", WEBP_COST, 0),
        ("AVIF", AVIF_COST, 0),
        ("JPEG2000", JPEG_2000_COST, 0),
        ("P2", SLOW_COST, SLOW_COST),
        ("P5 100", SLOW_COST, SLOW_COST),
    ],
)
def test_pixels_of_slow_formats_cost_more(image_format: str, pixel_factor: int, byte_factor: int) -> None:
    file = io.BytesIO()
    if image_format.startswith("P2"):
        file = io.BytesIO(b"P2 7 5 255 " + TEXT)
    elif image_format.startswith("P5"):
        file = io.BytesIO(b"P5 7 5 100 " + bytes(35))
    else:
        Image.fromarray(LEVELS).save(file, image_format)
    file = BoundedFile(file.getvalue(), max_pixels=10**6)
    with Image.open(file) as image:
        assert decoding_cost(image, file) == max(pixel_factor * 35, byte_factor * len(file.getvalue()))


@pytest.mark.parametrize(
    ("mode", "image_format", "options", "factor"),
    [
        ("1", "PNG", {}, 1), ("L", "PNG", {}, 1), ("RGB", "BMP", {}, 1), ("RGB", "TIFF", {}, 1),
        ("P", "PNG", {}, COPY_COST), ("RGBA", "PNG", {}, COPY_COST), ("I;16", "PNG", {}, COPY_COST),
        ("CMYK", "JPEG", {}, COPY_COST), ("RGB", "PNG", {"transparency": (0, 0, 0)}, COPY_COST),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}, COPY_COST), ("L", "TIFF", {"compression": "tiff_lzw"}, 1),
    ],
)  # fmt: skip
def test_pixels_that_are_copied_while_decoding_cost_more(
    mode: str, image_format: str, options: dict[str, Any], factor: int
) -> None:
    stream = io.BytesIO()
    Image.new(mode, (7, 5)).save(stream, image_format, **options)
    file = BoundedFile(stream.getvalue(), max_pixels=10**6)
    with Image.open(file) as image:
        assert decoding_cost(image, file) == factor * 35


def test_a_rotated_image_costs_more() -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (7, 5)).save(stream, "JPEG", exif=exif)
    file = BoundedFile(stream.getvalue(), max_pixels=10**6)
    with Image.open(file) as image:
        assert decoding_cost(image, file) == COPY_COST * 35


@pytest.mark.parametrize(
    ("scale", "progressive", "subsampling", "expected"),
    [
        (1, False, "4:4:4", 4096), (2, False, "4:4:4", 1024), (8, False, "4:4:4", 1024),
        (1, True, "4:4:4", 4096 + 6 * 4096 // 4), (1, True, "4:2:0", 4096 + 3 * 4096 // 4),
        (8, True, "4:4:4", 64 + 6 * 4096 // 4),
    ],
)  # fmt: skip
def test_a_jpeg_costs_its_decoded_pixels_and_coefficients_but_at_least_a_quarter(
    scale: int, progressive: bool, subsampling: str, expected: int
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG", progressive=progressive, subsampling=subsampling)
    file = BoundedFile(stream.getvalue(), max_pixels=10**6)
    with Image.open(file) as image:
        assert decoding_cost(image, file, scale=scale) == expected


@pytest.mark.parametrize(("image_format", "max_bytes"), [("AVIF", MAX_AVIF_BYTES), ("JPEG2000", MAX_JPEG_2000_BYTES)])
def test_avif_and_jpeg_2000_files_have_a_lower_limit_on_bytes(image_format: str, max_bytes: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(LEVELS).save(stream, image_format)
    BoundedFile(stream.getvalue().ljust(max_bytes, b"\0"), max_pixels=10**6)
    with pytest.raises(ImageError, match=f"of {max_bytes + 1:,} bytes, over the limit of {max_bytes:,}"):
        BoundedFile(stream.getvalue().ljust(max_bytes + 1, b"\0"), max_pixels=10**6)


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_jpeg_2000_with_tiny_tiles_is_not_supported(suffix: str) -> None:
    for side, tiles in ((200, (64, 64)), (28, (28, 28))):
        stream = io.BytesIO()
        Image.new("RGB", (side, side)).save(stream, "JPEG2000", tile_size=tiles, no_jp2=suffix == "j2k")
        BoundedFile(stream.getvalue(), max_pixels=10**6)
    stream = io.BytesIO()
    Image.new("RGB", (200, 200)).save(stream, "JPEG2000", tile_size=(64, 63), no_jp2=suffix == "j2k")
    with pytest.raises(ImageError, match="tiles of 64x63 pixels, under the minimum of 64x64") as caught:
        BoundedFile(stream.getvalue(), max_pixels=10**6)
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("scans", "factor"), [(1, 1), (SCANS_PER_COST, 1), (2 * SCANS_PER_COST, 2), (5 * SCANS_PER_COST, 5)]
)
def test_pixels_of_a_jpeg_file_with_many_scans_cost_more(jpeg: bytes, scans: int, factor: int) -> None:
    scan = jpeg[jpeg.index(SCAN) : -2]
    file = BoundedFile(jpeg[:-2] + scan * (scans - 1) + jpeg[-2:], max_pixels=10**6)
    with Image.open(file) as image:
        assert decoding_cost(image, file) == factor * 35


def test_narrow_rows_cost_more_in_images_with_very_many_rows() -> None:
    assert pixel_cost(28, 28) == 784 and pixel_cost(1, MAX_CHEAP_ROWS - 1) == MAX_CHEAP_ROWS - 1
    assert pixel_cost(1, MAX_CHEAP_ROWS) == MIN_ROW_COST * MAX_CHEAP_ROWS
    assert pixel_cost(100, MAX_CHEAP_ROWS) == 100 * MAX_CHEAP_ROWS


@pytest.mark.parametrize("image_format", ["BMP", "PPM", "TIFF", "PNG"])
def test_a_row_of_millions_of_pixels_is_too_large(card: ModelCard, tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "wide"
    Image.new("RGB", (5_000_000, 1)).save(path, image_format)
    with pytest.raises(ImageError, match="over the limit of 64,000,000") as caught:
        Decoder(card.input)(str(path))
    assert caught.value.code == "too-large"
