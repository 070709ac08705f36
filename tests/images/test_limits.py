"""Bounds: ordinary files of every kind that is bounded are decoded as ever, up to where the bounds lie."""

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
    LARGEST_HEADER,
    LARGEST_WEBP,
    LEAST_WIDTH,
    MANY_ROWS,
    MOST_SCANS,
    SCAN,
    SLOW,
    USUAL_SCANS,
    Bounded,
    counted,
    weight,
)

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
TEXT = b" ".join(b"%d" % level for level in LEVELS.ravel())
BITS = LEVELS > 127


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"P2\n# by hand\n7 5\n255\n" + TEXT, LEVELS),
        (b"P2 7 5 255\n" + TEXT.replace(b" ", b" # a level\n"), LEVELS),
        (b"P2 7#\r5 #\n#\n255 " + TEXT + b"# the end", LEVELS),
        (b"P5 # 1 2 3\n7 5\n#\n255\n" + LEVELS.tobytes(), LEVELS),
        (b"P5 7 5 255 " + b"#" * 35, np.full((5, 7), ord("#"))),  # a pixel, not a comment
        (b"P1 7 5\n" + b"".join(b"%d" % (not bit) for bit in BITS.ravel()), BITS * 255),
        (b"P4\n7 5 " + np.packbits(~BITS, axis=1).tobytes(), BITS * 255),
        (b"P5 7 5 100\n" + (LEVELS % 101).tobytes(), np.rint((LEVELS % 101) * 2.55)),
    ],
)
def test_grey_netpbm_files_are_decoded_comments_or_not(
    card: ModelCard, content: bytes, wanted: NDArray[np.generic]
) -> None:
    decoder = Decoder(replace(card, height=5, width=7).input)
    image = decoder._image(content).convert("L")
    assert np.array_equal(np.asarray(image), wanted)


@pytest.mark.parametrize(
    "content", [b"PK\3\4 a zip", b"P7\nWIDTH 7\n", b"Pf 7 5 1.0 ", b"P5", b"P2 7 5", b"P5 7x5 255 "]
)
def test_what_only_begins_like_a_netpbm_file_is_no_image(content: bytes) -> None:
    with pytest.raises(UnidentifiedImageError):
        Bounded(content, largest=10**6)


def test_a_header_may_be_long_but_not_longer_and_its_pixels_longer_still() -> None:
    file = Bounded(b"GIF8" + bytes(2 * LARGEST_HEADER), largest=10**6)
    file.read(LARGEST_HEADER)
    with pytest.raises(ImageError, match="a header longer, or of more parts, than images need") as caught:
        file.read(1)
    assert caught.value.code == "too-large"
    file.pixels_follow()
    assert len(file.read()) == LARGEST_HEADER + 3


def test_a_jpeg_has_so_many_scans_and_no_more() -> None:
    Bounded(b"\xff\xd8\xff" + SCAN * MOST_SCANS, largest=10**6)
    with pytest.raises(ImageError, match=f"a JPEG image of over {MOST_SCANS} scans"):
        Bounded(b"\xff\xd8\xff" + SCAN * (MOST_SCANS + 1), largest=10**6)


@pytest.mark.parametrize(
    ("part", "most"), [(b"VP8L", 2_000_000), (b"VP8 ....ALPH", 2_000_000), (b"VP8 ", LARGEST_WEBP)]
)
def test_webp_takes_so_many_bytes_and_fewer_where_its_codes_may_have_tables(part: bytes, most: int) -> None:
    start = b"RIFF....WEBP" + part
    Bounded(start + bytes(most - len(start)), largest=10_000_000)
    with pytest.raises(ImageError, match=f"WebP over the limit of {most:,} bytes"):
        Bounded(start + bytes(most - len(start) + 1), largest=10_000_000)


def test_a_small_lossless_webp_is_read_however_low_the_limit_on_pixels() -> None:
    Bounded(b"RIFF....WEBPVP8L" + bytes(1000), largest=784)


@pytest.mark.parametrize("before", [b"", b"\xff" * 9, b"\xff\0" * 9, b"\xff\xd0", b"\xff\xe1\0\4\xff\xc0", b"junk"])
def test_arithmetic_coding_is_found_whatever_stands_before_the_frame(before: bytes) -> None:
    start, frame = b"\xff\xd8\xff\xe0\0\2", b"\xff\xc9\0\x0b" + bytes(9)
    with pytest.raises(ImageError, match="arithmetic coding") as caught:
        Bounded(start + before + frame, largest=10**6)
    assert caught.value.code == "unsupported"
    Bounded(start + before + frame.replace(b"\xc9", b"\xc2"), largest=10**6)


@pytest.mark.parametrize(
    ("form", "pixels", "bytes_"),
    [("PNG", 1, 0), ("JPEG", 1, 0), ("WEBP", 2, 0), ("P2", SLOW, SLOW), ("P5 100", SLOW, SLOW)],
)
def test_pixels_count_by_what_they_cost(form: str, pixels: int, bytes_: int) -> None:
    file = io.BytesIO()
    if form.startswith("P2"):
        file = io.BytesIO(b"P2 7 5 255 " + TEXT)
    elif form.startswith("P5"):
        file = io.BytesIO(b"P5 7 5 100 " + bytes(35))
    else:
        Image.fromarray(LEVELS).save(file, form)
    content = file.getvalue()
    with Image.open(file) as image:
        assert weight(image, content) == max(pixels * 35, bytes_ * len(content))


@pytest.mark.parametrize(("scans", "times"), [(1, 1), (USUAL_SCANS - 1, 1), (USUAL_SCANS, 2), (MOST_SCANS, 6)])
def test_pixels_of_a_jpeg_in_many_scans_count_more(scans: int, times: int) -> None:
    file = io.BytesIO()
    Image.fromarray(LEVELS).save(file, "JPEG")
    content = file.getvalue()
    last = content[content.index(SCAN) : -2]
    with Image.open(file) as image:
        assert weight(image, content[:-2] + last * (scans - 1) + content[-2:]) == times * 35


def test_rows_count_where_there_are_many() -> None:
    assert counted(28, 28) == 784 and counted(1, MANY_ROWS - 1) == MANY_ROWS - 1
    assert counted(1, MANY_ROWS) == LEAST_WIDTH * MANY_ROWS and counted(100, MANY_ROWS) == 100 * MANY_ROWS


@pytest.mark.parametrize("form", ["BMP", "PPM", "TIFF", "PNG"])
def test_a_row_of_millions_is_too_large_for_the_time_that_it_takes(card: ModelCard, tmp_path: Path, form: str) -> None:
    path = tmp_path / "wide"
    Image.new("RGB", (4_000_000, 1)).save(path, form)
    with pytest.raises(ImageError, match="over the limit of 24,000,000") as caught:
        Decoder(card.input)(str(path))
    assert caught.value.code == "too-large"
