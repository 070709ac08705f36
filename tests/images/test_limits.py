"""Limits on image files: files are decoded up to each limit and rejected above it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from netkit.core.errors import ImageError
from netkit.core.model_card import ModelCard
from netkit.images.decoder import Decoder
from netkit.images.limits import (
    JPEG_SCAN,
    JPEG_SCANS_PER_COST,
    MAX_CHEAP_ROWS,
    MAX_HEADER_BYTES,
    MAX_JPEG_SCANS,
    MAX_WEBP_BYTES,
    MIN_ROW_COST,
    SLOW_COST,
    BoundedFile,
    decoding_cost,
    jpeg_end,
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
    with pytest.raises(ImageError, match="the header is too large or has too many parts") as caught:
        file.read(1)
    assert caught.value.code == "too-large"
    file.end_header()
    assert len(file.read()) == MAX_HEADER_BYTES + 3


def test_a_jpeg_file_may_have_the_maximum_number_of_scans_but_no_more() -> None:
    BoundedFile(b"\xff\xd8\xff" + JPEG_SCAN * MAX_JPEG_SCANS, max_pixels=10**6)
    with pytest.raises(ImageError, match=f"JPEG with more than {MAX_JPEG_SCANS} scans"):
        BoundedFile(b"\xff\xd8\xff" + JPEG_SCAN * (MAX_JPEG_SCANS + 1), max_pixels=10**6)


SCANS = JPEG_SCAN * (MAX_JPEG_SCANS + 1)
ARITHMETIC_FRAME = b"\xff\xc9\0\x0b\x08" + bytes(8)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(LEVELS).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("trailer", [SCANS, ARITHMETIC_FRAME, np.random.default_rng(1).bytes(3_000_000)])
def test_data_after_a_jpeg_image_does_not_count(jpeg: bytes, trailer: bytes) -> None:
    """Motion photos, for example, have a video after the image."""
    with Image.open(BoundedFile(jpeg + trailer, max_pixels=10**6)) as image:
        assert decoding_cost(image, jpeg + trailer) == 35


@pytest.mark.parametrize("segment", [b"\xff\xfe\0\4\xff\xd9", b"\xff\xe1\0\7\xff\xd9\xff\xd9\0", b"\xff\0\xd9"])
def test_only_a_marker_outside_of_segments_ends_a_jpeg_image(jpeg: bytes, segment: bytes) -> None:
    assert jpeg_end(jpeg) == len(jpeg) - 2
    with pytest.raises(ImageError, match=f"JPEG with more than {MAX_JPEG_SCANS} scans"):
        BoundedFile(jpeg[:-2] + segment + SCANS + jpeg[-2:], max_pixels=10**6)
    for start in (jpeg[:2], jpeg[:-2]):
        with pytest.raises(ImageError, match="JPEG with more than 10,000 segments"):
            jpeg_end(start + b"\xff\xfe\0\2" * 10_000 + jpeg[2:])


@pytest.mark.parametrize(
    ("chunk", "max_bytes"), [(b"VP8L", 2_000_000), (b"VP8 ....ALPH", 2_000_000), (b"VP8 ", MAX_WEBP_BYTES)]
)
def test_lossless_webp_files_have_a_lower_limit_on_bytes_than_lossy_ones(chunk: bytes, max_bytes: int) -> None:
    start = b"RIFF....WEBP" + chunk
    BoundedFile(start + bytes(max_bytes - len(start)), max_pixels=10_000_000)
    with pytest.raises(ImageError, match=f"WebP over the limit of {max_bytes:,} bytes"):
        BoundedFile(start + bytes(max_bytes - len(start) + 1), max_pixels=10_000_000)


def test_a_small_lossless_webp_file_is_accepted_even_if_the_limit_on_pixels_is_low() -> None:
    BoundedFile(b"RIFF....WEBPVP8L" + bytes(1000), max_pixels=784)


@pytest.mark.parametrize("before", [b"", b"\xff" * 9, b"\xff\0" * 9, b"\xff\xd0", b"\xff\xe1\0\4\xff\xc0", b"junk"])
def test_arithmetic_coding_is_detected_regardless_of_the_bytes_before_the_frame(before: bytes) -> None:
    start, frame = b"\xff\xd8\xff\xe0\0\2", ARITHMETIC_FRAME
    with pytest.raises(ImageError, match="JPEG with arithmetic coding is not supported") as caught:
        BoundedFile(start + before + frame, max_pixels=10**6)
    assert caught.value.code == "unsupported"
    BoundedFile(start + before + frame.replace(b"\xc9", b"\xc2"), max_pixels=10**6)


@pytest.mark.parametrize(
    ("image_format", "pixel_factor", "byte_factor"),
    [("PNG", 1, 0), ("JPEG", 1, 0), ("WEBP", 2, 0), ("P2", SLOW_COST, SLOW_COST), ("P5 100", SLOW_COST, SLOW_COST)],
)
def test_pixels_of_slow_formats_cost_more(image_format: str, pixel_factor: int, byte_factor: int) -> None:
    file = io.BytesIO()
    if image_format.startswith("P2"):
        file = io.BytesIO(b"P2 7 5 255 " + TEXT)
    elif image_format.startswith("P5"):
        file = io.BytesIO(b"P5 7 5 100 " + bytes(35))
    else:
        Image.fromarray(LEVELS).save(file, image_format)
    content = file.getvalue()
    with Image.open(file) as image:
        assert decoding_cost(image, content) == max(pixel_factor * 35, byte_factor * len(content))


@pytest.mark.parametrize(
    ("scans", "factor"), [(1, 1), (JPEG_SCANS_PER_COST - 1, 1), (JPEG_SCANS_PER_COST, 2), (MAX_JPEG_SCANS, 6)]
)
def test_pixels_of_a_jpeg_file_with_many_scans_cost_more(jpeg: bytes, scans: int, factor: int) -> None:
    scan = jpeg[jpeg.index(JPEG_SCAN) : -2]
    with Image.open(io.BytesIO(jpeg)) as image:
        assert decoding_cost(image, jpeg[:-2] + scan * (scans - 1) + jpeg[-2:]) == factor * 35


def test_narrow_rows_cost_more_in_images_with_very_many_rows() -> None:
    assert pixel_cost(28, 28) == 784 and pixel_cost(1, MAX_CHEAP_ROWS - 1) == MAX_CHEAP_ROWS - 1
    assert pixel_cost(1, MAX_CHEAP_ROWS) == MIN_ROW_COST * MAX_CHEAP_ROWS
    assert pixel_cost(100, MAX_CHEAP_ROWS) == 100 * MAX_CHEAP_ROWS


@pytest.mark.parametrize("image_format", ["BMP", "PPM", "TIFF", "PNG"])
def test_a_row_of_millions_of_pixels_is_too_large(card: ModelCard, tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "wide"
    Image.new("RGB", (4_000_000, 1)).save(path, image_format)
    with pytest.raises(ImageError, match="over the limit of 24,000,000") as caught:
        Decoder(card.input)(str(path))
    assert caught.value.code == "too-large"
