"""Whatever is called an image gives one row, by the command as people run it, soon and within 512 MB."""

import io
import json
import math
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits time and counts memory as Linux does")
LARGEST_KB = 512 * 1024
SIDE = 4898  # of a square of just under as many pixels as are taken
WEBP_SIDE = 3464  # of WebP, whose pixels count double
COLOURS = np.random.default_rng(0).integers(0, 256, (28, 28, 4), np.uint8)


@pytest.fixture(scope="module")
def model(workplace: Path) -> Path:
    return workplace / "runs/residual/model.onnx"


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from netkit.cli import cli
try:
    cli(sys.argv[1:])
finally:
    print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def rows_of_folder(model: Path, folder: Path) -> list[dict[str, Any]]:
    """The row of each file in a folder, from a command that kept within the limits."""
    command: list[str | Path] = [sys.executable, "-c", LIMITED, "infer", ".", "--model", model, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if all(row["status"] == "ok" for row in rows) else 1)
    assert "Traceback" not in done.stderr
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert int(peak) < LARGEST_KB
    return rows


def image(mode: str, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOURS, "RGBA").convert(mode).save(file, form, **options)
    return file.getvalue()


def large(mode: str, form: str, *, width: int = SIDE, height: int = SIDE, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (width, height)).save(path, form, **options)


def turned(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return exif


def noise(mode: str, form: str, *, side: int = SIDE, **options: Any) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        levels = np.random.default_rng(0).integers(0, 256, (side, side, len(mode)), np.uint8)
        Image.fromarray(levels.squeeze()).save(path, form, **options)

    return save


def animated(form: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((28, 28, 3), level, np.uint8)) for level in range(0, 250, 10)]
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


@cache
def gigabyte() -> bytes:
    """A gigabyte of zeros in a megabyte. It takes seconds."""
    return zlib.compress(bytes(2**30), 9)


def gigabyte_before_pixels(kind: bytes, start: bytes) -> Callable[[Path], object]:
    """A PNG with a chunk of that kind, whose content is a gigabyte."""
    return lambda path: path.write_bytes(png(28, 28, png_chunk(kind, start + gigabyte()), png_chunk(b"IDAT", PIXELS)))


def padded(content: bytes, at: int, *parts: tuple[bytes, int]) -> Callable[[Path], None]:
    """The content with parts put in at a place, each so many times."""

    def save(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(content[:at])
            for part, times in parts:
                file.write(part * times)
            file.write(content[at:])

    return save


def webp_of_tables(groups: int) -> Callable[[Path], None]:
    """A lossless WebP of so many groups of prefix codes, of 218 bytes each, whose tables take 16 kB; and no pixels.

    After the WebP lossless specification (https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification).
    """
    once = "1000"  # a code of one symbol, 0, which takes no bits
    orders = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12]  # in which the lengths of lengths' codes come

    def code(lengths_of_lengths: dict[int, int], *tokens: str, last: int, counted: str = "0") -> str:
        count = orders.index(last) + 1
        lengths = "".join(bits(lengths_of_lengths.get(length, 0), 3) for length in orders[:count])
        return "0" + bits(count - 4, 4) + lengths + counted + "".join(tokens)

    eights = "0", ("1" + bits(3, 2)) * 42, "1" + bits(0, 2)  # 256 lengths of 8, in 44 tokens
    bytes_ = code({16: 1, 8: 1}, *eights, last=8)
    literals = code({16: 1, 8: 1}, *eights, last=8, counted="1" + bits(2, 3) + bits(44 - 2, 6))
    cached = "10" + ("0" + bits(3, 2)) * 294 + "0" + bits(0, 2) + "11" + ("0" + bits(3, 2)) * 92  # 1,768 of 11, then 12
    green = code({16: 1, 11: 2, 12: 2}, cached, "0" + bits(1, 2), "0" + bits(0, 2), last=12)

    def save(path: Path) -> None:
        across = math.isqrt(groups)
        down = -(-groups // across)
        head = bits(4 * across - 1, 14) + bits(4 * down - 1, 14) + "0" + "000" + "0" + "1" + bits(11, 4) + "1" + "000"
        numbers = (min(number, groups - 1) for number in range(across * down))
        places = "".join(f"{number & 255:08b}{number >> 8:08b}" for number in numbers)
        stream = head + "0" + literals + bytes_ + 3 * once + places + (green + 3 * bytes_ + once) * groups
        packed = np.packbits(np.frombuffer(stream.encode(), np.uint8) - ord("0"), bitorder="little").tobytes()
        content = b"WEBPVP8L" + struct.pack("<I", len(packed) + 1) + b"\x2f" + packed
        content += b"\0" * (len(content) % 2)
        path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)

    return save


def bits(number: int, count: int) -> str:
    """The lowest first."""
    return f"{number:0{count}b}"[::-1]


def of_many_scans(path: Path) -> None:
    """A progressive JPEG whose last scan comes 2,000 times: 180 kB."""
    large("L", "JPEG", progressive=True)(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 2000 + content[-2:])


def run_lengths(path: Path) -> None:
    """A BMP of runs of one pixel each."""
    rows = (b"\x01\x07" * SIDE + b"\0\0") * SIDE + b"\0\1"
    sizes = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, len(rows), 0, 0, 256, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + sizes + bytes(1024) + rows)


def narrow(mode: str) -> Callable[[Path], None]:
    """A PNG one pixel wide and as high as there are pixels taken."""
    kind, row = {"RGBA": (b"\x08\x06", 5), "I;16": (b"\x10\0", 3)}[mode]

    def save(path: Path) -> None:
        header = png_chunk(b"IHDR", struct.pack(">II", 1, 24_000_000) + kind + b"\0\0\0")
        pixels = png_chunk(b"IDAT", zlib.compress(bytes(24_000_000 * row), 1))
        path.write_bytes(GREY_PNG[:8] + header + pixels + png_chunk(b"IEND", b""))

    return save


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """60 MB of zeros as a TIFF with those entries: tag, type, count, and value or place."""
    start = 60_000_008
    fields = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (
        struct.pack("<2sHI", b"II", 42, start) + bytes(start - 8) + struct.pack("<H", len(entries)) + fields + bytes(4)
    )


def as_tiff(*entries: tuple[int, int, int, int]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(tiff(*GREY_TIFF, *entries))


SHORTS = 25_000_000
GREY_TIFF = [(256, 3, 1, 28), (257, 3, 1, 28), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
GREY_JPEG, GREY_GIF, GREY_PNG = image("L", "JPEG"), image("L", "GIF"), image("L", "PNG")
AFTER_PALETTE = 13 + 3 * 2 ** ((GREY_GIF[10] & 7) + 1)
EXIF = b"\xff\xe1" + struct.pack(">H", 60_008) + b"Exif\0\0" + bytes(60_000)
PIXELS = zlib.compress(bytes(29 * 28))

CASES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "of no bytes": (b"", "not-an-image"),
    "text": (b"hello, I am text", "not-an-image"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(x) run\n", "not-an-image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"/>', "not-an-image"),
    "an icon": (image("RGBA", "ICO"), "not-an-image"),
    "JPEG": (image("RGB", "JPEG"), "ok"),
    "JPEG in CMYK": (image("CMYK", "JPEG"), "ok"),
    "WebP": (image("RGBA", "WEBP"), "ok"),
    "TIFF": (image("RGB", "TIFF"), "ok"),
    "BMP": (image("RGB", "BMP"), "ok"),
    "PGM": (image("L", "PPM"), "ok"),
    "a palette": (image("P", "PNG"), "ok"),
    "one bit": (image("1", "PNG"), "ok"),
    "16 bits": (image("I;16", "PNG"), "ok"),
    "alpha": (image("RGBA", "PNG"), "ok"),
    "animated GIF": (animated("GIF"), "ok"),
    "animated PNG": (animated("PNG"), "ok"),
    "animated WebP": (animated("WEBP"), "ok"),
    **{f"turned, {turn}": (image("RGB", "JPEG", exif=turned(turn)), "ok") for turn in range(1, 9)},
    "many bytes": (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 10 * 2**30), "too-large"),
    "many pixels": (png(60_000, 60_000, png_chunk(b"IDAT", PIXELS)), "too-large"),
    "more pixels than any": (png(2**31 - 1, 2**31 - 1, png_chunk(b"IDAT", PIXELS)), "too-large"),
    "a gigabyte of pixels more": (lambda path: path.write_bytes(png(28, 28, png_chunk(b"IDAT", gigabyte()))), "ok"),
    "a gigabyte of text": (gigabyte_before_pixels(b"zTXt", b"Comment\0\0"), "damaged"),
    "a gigabyte of profile": (gigabyte_before_pixels(b"iCCP", b"p\0\0"), "damaged"),
    "fifo": (os.mkfifo, "unreadable"),
    "a folder": (os.mkdir, "unreadable"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere.png"), "vanished"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "unreadable"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "unreadable"),
    "large grey": (large("L", "PNG"), "ok"),
    "large colour": (large("RGB", "PNG"), "ok"),
    "large with alpha": (large("RGBA", "PNG"), "ok"),
    "large grey with alpha": (large("LA", "PNG"), "ok"),
    "large with a palette": (large("P", "PNG", transparency=0), "ok"),
    "large of 16 bits": (large("I;16", "PNG"), "ok"),
    "large in one bit": (large("1", "PNG"), "ok"),
    "large JPEG": (large("RGB", "JPEG"), "ok"),
    "large progressive JPEG": (large("RGB", "JPEG", progressive=True), "ok"),
    "large JPEG in CMYK": (large("CMYK", "JPEG"), "ok"),
    "large GIF": (large("P", "GIF"), "ok"),
    "large TIFF": (large("RGBA", "TIFF", compression="tiff_adobe_deflate"), "ok"),
    "large TIFF in CMYK": (large("CMYK", "TIFF", compression="tiff_adobe_deflate"), "ok"),
    "noise in PNG": (noise("L", "PNG", compress_level=1), "ok"),
    "noise in JPEG": (noise("RGB", "JPEG", quality=90), "ok"),
    "noise in progressive JPEG": (noise("RGB", "JPEG", progressive=True), "ok"),
    "noise in WebP": (noise("RGB", "WEBP", side=WEBP_SIDE, method=0, quality=50), "ok"),
    "noise in lossless WebP": (noise("RGB", "WEBP", side=1250, lossless=True, method=0, quality=0), "ok"),
    "more noise in lossless WebP": (noise("RGB", "WEBP", side=1350, lossless=True, method=0, quality=0), "too-large"),
    "lossless WebP of tables": (webp_of_tables(21_500), "damaged"),
    "lossless WebP of more tables": (webp_of_tables(60_000), "too-large"),
    "large WebP": (large("RGBA", "WEBP", width=WEBP_SIDE, height=WEBP_SIDE, lossless=True, method=0), "ok"),
    "larger WebP": (large("RGB", "WEBP", width=3600, height=3600, lossless=True, method=0, quality=0), "too-large"),
    "JPEG of empty segments": (padded(GREY_JPEG, 2, (b"\xff\xfe\0\2", 15_000_000)), "too-large"),
    "JPEG of bytes between segments": (padded(GREY_JPEG, 2, (b"\xff", 60_000_000)), "too-large"),
    "JPEG of EXIF": (padded(GREY_JPEG, 2, (EXIF, 1000)), "too-large"),
    "JPEG of many scans": (of_many_scans, "too-large"),
    "GIF of comments": (padded(GREY_GIF, AFTER_PALETTE, (b"\x21\xfe\x01a\0", 12_000_000)), "too-large"),
    "GIF of a long comment": (
        padded(GREY_GIF, AFTER_PALETTE, (b"\x21\xfe", 1), (b"\x01a", 30_000_000), (b"\0", 1)), "too-large",
    ),
    "GIF of zeros": (padded(GREY_GIF, AFTER_PALETTE, (b"\0", 60_000_000)), "too-large"),
    "PNG of texts": (padded(GREY_PNG, 33, (png_chunk(b"tEXt", b"a\0"), 4_000_000)), "too-large"),
    "PNG of no pixels, often": (padded(GREY_PNG, 33, (png_chunk(b"IDAT", b""), 5_000_000)), "too-large"),
    "PGM of a comment": (padded(image("L", "PPM"), 3, (b"#", 1), (b"x", 60_000_000), (b"\n", 1)), "not-an-image"),
    "PGM of comments": (padded(b"P2 28 28 255 " + b"7 " * 784, 13, (b"#\n", 700_000)), "ok"),
    "PGM of more comments": (padded(b"P2 28 28 255 " + b"7 " * 784, 13, (b"#\n", 30_000_000)), "too-large"),
    "large PGM as text": (padded(b"P2 %d %d 255 " % (SIDE, SIDE), 17, (b"7 ", SIDE * SIDE)), "too-large"),
    "PGM as text": (padded(b"P2 860 860 255 ", 15, (b"7 ", 860 * 860)), "ok"),
    "large PGM of 101 levels": (padded(b"P5 %d %d 100 " % (SIDE, SIDE), 17, (b"7", SIDE * SIDE)), "too-large"),
    "PPM of 101 levels": (padded(b"P6 700 700 100 ", 15, (b"7", 3 * 700 * 700)), "ok"),
    "BMP of short runs": (run_lengths, "too-large"),
    "narrow with alpha": (narrow("RGBA"), "too-large"),
    "narrow of 16 bits": (narrow("I;16"), "too-large"),
    "PNG of a long profile": (
        padded(GREY_PNG, 33, (png_chunk(b"tEXt", b"Raw profile type exif\0" + b"ab\n" * 10_000_000), 1)), "too-large",
    ),
    "PNG turned often": (
        lambda path: path.write_bytes(GREY_PNG[:33] + png_chunk(b"eXIf", tiff((274, 3, SHORTS, 26))) + GREY_PNG[33:]),
        "too-large",
    ),
    "TIFF of strips": (as_tiff((273, 4, 1_500_000, 8), (278, 4, 1, 1)), "too-large"),
    "TIFF of long fields": (as_tiff((700, 3, SHORTS, 8)), "too-large"),
    "TIFF of tiles larger than itself": (
        as_tiff((322, 4, 1, 16_384), (323, 4, 1, 16_384), (324, 4, 1, 8), (325, 4, 1, 2**28)), "too-large",
    ),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(100), "unsupported"),
    "JPEG in arithmetic coding": (GREY_JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "unsupported"),
    "much WebP": (padded(image("L", "WEBP"), 12, (b"JUNK\0\0\0\0", 5_000_000)), "too-large"),
}  # fmt: skip


CONTENTS = {case: content for case, (content, _) in CASES.items() if isinstance(content, bytes)}


@pytest.fixture(scope="module")
def rows_of_contents(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The row of each case that is a file's content, all from one command."""
    folder = tmp_path_factory.mktemp("contents")
    for case, content in CONTENTS.items():
        (folder / f"{case}.png").write_bytes(content)
    return {Path(row["path"]).stem: row for row in rows_of_folder(model, folder)}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_content_is_one_row(case: str, rows_of_contents: dict[str, dict[str, Any]]) -> None:
    require_status(rows_of_contents[case], CASES[case][1])
    assert len(rows_of_contents) == len(CONTENTS)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case.startswith(("large", "noise")) else ())
        for case in CASES
        if case not in CONTENTS
    ],
)
def test_it_is_one_row_within_the_limits(case: str, tmp_path: Path, model: Path) -> None:
    create, status = CASES[case]
    assert callable(create)
    create(tmp_path / "x.png")
    (row,) = rows_of_folder(model, tmp_path)
    assert row["path"] == "./x.png"
    require_status(row, status)


def require_status(row: dict[str, Any], status: str) -> None:
    assert row["status"] == status, row["message"]
    assert (row["label"] is None) == (status != "ok") == bool(row["message"])
