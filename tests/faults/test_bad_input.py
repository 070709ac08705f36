"""Every file that is named like an image gives one row, in a command limited to 10 s of CPU time and 512 MB."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.bad_files import (
    EXIF_SEGMENT,
    GIF_PALETTE_END,
    GREY_GIF,
    GREY_JPEG,
    GREY_PNG,
    MAX_AVIF_SIDE,
    MAX_COPIED_SIDE,
    MAX_JPEG_2000_SIDE,
    MAX_PROGRESSIVE_SIDE,
    MAX_SIDE,
    MAX_WEBP_SIDE,
    PNG_PIXELS,
    Create,
    animation,
    bmp_with_short_runs,
    compressed_gigabyte,
    encode,
    exif_orientation,
    grey_tiff,
    insert,
    jpeg_with_many_scans,
    large,
    narrow_png,
    noise,
    png,
    png_chunk,
    png_with_gigabyte,
    tiff,
    webp_with_code_tables,
)  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits time and measures memory as on Linux")
MAX_MEMORY_KB = 512 * 1024
SHORTS = 25_000_000  # 16-bit numbers in a TIFF field


@pytest.fixture(scope="module")
def model(workspace: Path) -> Path:
    return workspace / "runs/residual/model.onnx"


LIMITED_COMMAND = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from netkit.cli import cli
try:
    cli(sys.argv[1:])
finally:
    print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def rows_of_folder(model: Path, folder: Path) -> list[dict[str, Any]]:
    """Run inference on all files in a folder within the limits; return the rows."""
    command: list[str | Path] = [sys.executable, "-c", LIMITED_COMMAND, "infer", ".", "--model", model, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if all(row["status"] == "ok" for row in rows) else 1)
    assert "Traceback" not in done.stderr
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert int(peak_kb) < MAX_MEMORY_KB
    return rows


CASES: dict[str, tuple[bytes | Create, str]] = {
    "empty file": (b"", "not-an-image"),
    "text": (b"hello, I am text", "not-an-image"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(x) run\n", "not-an-image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"/>', "unsupported"),
    "icon": (encode("RGBA", "ICO"), "unsupported"),
    "JPEG": (encode("RGB", "JPEG"), "ok"),
    "JPEG in CMYK": (encode("CMYK", "JPEG"), "ok"),
    "WebP": (encode("RGBA", "WEBP"), "ok"),
    "TIFF": (encode("RGB", "TIFF"), "ok"),
    "BMP": (encode("RGB", "BMP"), "ok"),
    "AVIF": (encode("RGBA", "AVIF"), "ok"),
    "JPEG 2000": (encode("RGB", "JPEG2000"), "ok"),
    "PGM": (encode("L", "PPM"), "ok"),
    "palette": (encode("P", "PNG"), "ok"),
    "one bit": (encode("1", "PNG"), "ok"),
    "16 bits": (encode("I;16", "PNG"), "ok"),
    "alpha": (encode("RGBA", "PNG"), "ok"),
    "animated GIF": (animation("GIF"), "ok"),
    "animated PNG": (animation("PNG"), "ok"),
    "animated WebP": (animation("WEBP"), "ok"),
    **{f"orientation {n}": (encode("RGB", "JPEG", exif=exif_orientation(n)), "ok") for n in range(1, 9)},
    "many bytes": (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 10 * 2**30), "too-large"),
    "many pixels": (png(60_000, 60_000, png_chunk(b"IDAT", PNG_PIXELS)), "too-large"),
    "maximum width and height": (png(2**31 - 1, 2**31 - 1, png_chunk(b"IDAT", PNG_PIXELS)), "too-large"),
    "a gigabyte of excess pixels": (
        lambda path: path.write_bytes(png(28, 28, png_chunk(b"IDAT", compressed_gigabyte()))), "ok",
    ),
    "a gigabyte of text": (png_with_gigabyte(b"zTXt", b"Comment\0\0"), "ok"),
    "a gigabyte of EXIF as text": (png_with_gigabyte(b"zTXt", b"Raw profile type exif\0\0"), "damaged"),
    "a gigabyte of color profile": (png_with_gigabyte(b"iCCP", b"p\0\0"), "ok"),
    "fifo": (os.mkfifo, "unreadable"),
    "folder": (os.mkdir, "unreadable"),
    "dangling link": (lambda path: path.symlink_to("nowhere.png"), "not-found"),
    "link to itself": (lambda path: path.symlink_to(path.name), "unreadable"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "unreadable"),
    "large grey": (large("L", "PNG"), "ok"),
    "large color": (large("RGB", "PNG"), "ok"),
    "large with alpha": (large("RGBA", "PNG", side=MAX_COPIED_SIDE), "ok"),
    "large grey with alpha": (large("LA", "PNG", side=MAX_COPIED_SIDE), "ok"),
    "large with a palette": (large("P", "PNG", side=MAX_COPIED_SIDE, transparency=0), "ok"),
    "large with 16 bits": (large("I;16", "PNG", side=MAX_COPIED_SIDE), "ok"),
    "large with one bit": (large("1", "PNG"), "ok"),
    "large JPEG": (large("RGB", "JPEG"), "ok"),
    "large progressive JPEG": (large("RGB", "JPEG", side=MAX_PROGRESSIVE_SIDE, progressive=True), "ok"),
    "large JPEG in CMYK": (large("CMYK", "JPEG", side=MAX_COPIED_SIDE), "ok"),
    "large JPEG that is rotated": (large("RGB", "JPEG", side=MAX_COPIED_SIDE, exif=exif_orientation(6)), "ok"),
    "large GIF": (large("P", "GIF", side=MAX_COPIED_SIDE), "ok"),
    "large TIFF": (large("RGBA", "TIFF", side=MAX_COPIED_SIDE, compression="tiff_adobe_deflate"), "ok"),
    "large TIFF in one strip": (
        large("RGB", "TIFF", side=MAX_COPIED_SIDE, compression="tiff_adobe_deflate", strip_size=10**9), "ok",
    ),
    "large TIFF in CMYK": (large("CMYK", "TIFF", side=MAX_COPIED_SIDE, compression="tiff_adobe_deflate"), "ok"),
    "noise in PNG": (noise("L", "PNG", compress_level=1), "ok"),
    "noise in JPEG": (noise("RGB", "JPEG", quality=75), "ok"),
    "noise in progressive JPEG": (noise("RGB", "JPEG", side=MAX_PROGRESSIVE_SIDE, progressive=True), "ok"),
    "noise in WebP": (noise("RGB", "WEBP", side=MAX_WEBP_SIDE, method=0, quality=50), "ok"),
    "noise in lossless WebP": (noise("RGB", "WEBP", side=1250, lossless=True, method=0, quality=0), "ok"),
    "more noise in lossless WebP": (noise("RGB", "WEBP", side=1350, lossless=True, method=0, quality=0), "too-large"),
    "lossless WebP with code tables": (webp_with_code_tables(21_500), "damaged"),
    "lossless WebP with more code tables": (webp_with_code_tables(60_000), "too-large"),
    "large WebP": (large("RGBA", "WEBP", side=MAX_WEBP_SIDE, lossless=True, method=0), "ok"),
    "larger WebP": (large("RGB", "WEBP", side=4100, lossless=True, method=0, quality=0), "too-large"),
    "large AVIF": (large("RGBA", "AVIF", side=MAX_AVIF_SIDE, speed=10), "ok"),
    "larger AVIF": (large("RGB", "AVIF", side=3700, speed=10), "too-large"),
    "noise in AVIF": (noise("RGB", "AVIF", side=2000, speed=10, quality=100, subsampling="4:4:4"), "ok"),
    "more noise in AVIF": (noise("RGB", "AVIF", side=2200, speed=10, quality=100, subsampling="4:4:4"), "too-large"),
    "large JPEG 2000": (large("RGBA", "JPEG2000", side=MAX_JPEG_2000_SIDE), "ok"),
    "larger JPEG 2000": (large("RGB", "JPEG2000", side=1500), "too-large"),
    "noise in JPEG 2000": (noise("RGB", "JPEG2000", side=MAX_JPEG_2000_SIDE), "ok"),
    "noise in JPEG 2000 with small blocks": (
        noise("RGB", "JPEG2000", side=MAX_JPEG_2000_SIDE, codeblock_size=(4, 4)), "ok",
    ),
    "JPEG 2000 with small tiles": (large("RGB", "JPEG2000", side=1000, tile_size=(16, 16)), "unsupported"),
    "JPEG with empty segments": (insert(GREY_JPEG, 2, (b"\xff\xfe\0\2", 15_000_000)), "too-large"),
    "JPEG with bytes between segments": (insert(GREY_JPEG, 2, (b"\xff", 60_000_000)), "ok"),
    "JPEG with 60 MB of EXIF": (insert(GREY_JPEG, 2, (EXIF_SEGMENT, 1000)), "too-large"),
    "JPEG with many scans": (jpeg_with_many_scans, "too-large"),
    "GIF with comments": (insert(GREY_GIF, GIF_PALETTE_END, (b"\x21\xfe\x01a\0", 12_000_000)), "too-large"),
    "GIF with a long comment": (
        insert(GREY_GIF, GIF_PALETTE_END, (b"\x21\xfe", 1), (b"\x01a", 30_000_000), (b"\0", 1)), "too-large",
    ),
    "GIF with zeros": (insert(GREY_GIF, GIF_PALETTE_END, (b"\0", 60_000_000)), "too-large"),
    "PNG with many texts": (insert(GREY_PNG, 33, (png_chunk(b"tEXt", b"a\0"), 4_000_000)), "too-large"),
    "PNG with many empty pixel chunks": (insert(GREY_PNG, 33, (png_chunk(b"IDAT", b""), 5_000_000)), "too-large"),
    "PGM with a long comment": (
        insert(encode("L", "PPM"), 3, (b"#", 1), (b"x", 60_000_000), (b"\n", 1)), "not-an-image",
    ),
    "PGM with comments": (insert(b"P2 28 28 255 " + b"7 " * 784, 13, (b"#\n", 700_000)), "ok"),
    "PGM with more comments": (insert(b"P2 28 28 255 " + b"7 " * 784, 13, (b"#\n", 30_000_000)), "too-large"),
    "large PGM as text": (insert(b"P2 5656 5656 255 ", 17, (b"7 ", MAX_COPIED_SIDE**2)), "too-large"),
    "PGM as text": (insert(b"P2 860 860 255 ", 15, (b"7 ", 860 * 860)), "ok"),
    "large PGM with 101 levels": (
        insert(b"P5 %d %d 100 " % (MAX_SIDE, MAX_SIDE), 17, (b"7", MAX_SIDE**2)), "too-large",
    ),
    "PPM with 101 levels": (insert(b"P6 700 700 100 ", 15, (b"7", 3 * 700 * 700)), "ok"),
    "BMP with short runs": (bmp_with_short_runs, "too-large"),
    "narrow with alpha": (narrow_png("RGBA"), "too-large"),
    "narrow with 16 bits": (narrow_png("I;16"), "too-large"),
    "PNG with a long profile": (
        insert(GREY_PNG, 33, (png_chunk(b"tEXt", b"Raw profile type exif\0" + b"ab\n" * 10_000_000), 1)), "ok",
    ),
    "PNG with 25 million orientations": (
        lambda path: path.write_bytes(GREY_PNG[:33] + png_chunk(b"eXIf", tiff((274, 3, SHORTS, 26))) + GREY_PNG[33:]),
        "too-large",
    ),
    "TIFF with many strips": (grey_tiff((273, 4, 1_500_000, 8), (278, 4, 1, 1)), "too-large"),
    "TIFF with long fields": (grey_tiff((273, 4, 1, 8), (278, 4, 1, 28), (279, 4, 1, 784), (700, 3, SHORTS, 8)), "ok"),
    "TIFF with a long orientation": (grey_tiff((274, 3, SHORTS, 8)), "too-large"),
    "TIFF with tiles larger than the image": (
        grey_tiff((322, 4, 1, 16_384), (323, 4, 1, 16_384), (324, 4, 1, 8), (325, 4, 1, 2**28)), "too-large",
    ),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(100), "unsupported"),
    "JPEG with arithmetic coding": (GREY_JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "unsupported"),
    "WebP over the limit on bytes": (insert(encode("L", "WEBP"), 12, (b"JUNK\0\0\0\0", 5_000_000)), "too-large"),
}  # fmt: skip

CONTENTS = {case: content for case, (content, _) in CASES.items() if isinstance(content, bytes)}


@pytest.fixture(scope="module")
def rows_of_contents(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The row of each case whose file content is given as bytes, all from one command."""
    folder = tmp_path_factory.mktemp("contents")
    for case, content in CONTENTS.items():
        (folder / f"{case}.png").write_bytes(content)
    return {Path(row["path"]).stem: row for row in rows_of_folder(model, folder)}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_small_file_gives_one_row(case: str, rows_of_contents: dict[str, dict[str, Any]]) -> None:
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
def test_a_large_or_special_file_gives_one_row_within_the_limits(case: str, tmp_path: Path, model: Path) -> None:
    create, status = CASES[case]
    assert callable(create)
    create(tmp_path / "x.png")
    (row,) = rows_of_folder(model, tmp_path)
    assert row["path"] == "./x.png"
    require_status(row, status)


def require_status(row: dict[str, Any], status: str) -> None:
    assert row["status"] == status, row["message"]
    assert (row["label"] is None) == (status != "ok") == bool(row["message"])


DECODE_REDUCED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from netkit.core.model_card import Input
from netkit.images.decoder import Decoder, suppress_pillow_warnings
with suppress_pillow_warnings():
    Decoder(Input(3, 224, 224, draft=True))(sys.argv[1])
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "progressive"), [(12_000, 9_000, False), (8_000, 6_000, True)])
def test_photos_over_the_limit_of_a_full_decode_are_decoded_at_a_reduced_scale_within_the_limits(
    width: int, height: int, progressive: bool, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    levels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(levels).resize((width, height)).save(path, progressive=progressive)
    done = subprocess.run(
        [sys.executable, "-c", DECODE_REDUCED, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak_kb) < MAX_MEMORY_KB
