"""Whatever is called an image gives one row, by the command as people run it, soon and within 512 MB."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits time and counts memory as Linux does")
LARGEST_KB = 512 * 1024
SIDE = 4898  # of a square of just under as many pixels as are taken
COLOURS = np.random.default_rng(0).integers(0, 256, (28, 28, 4), np.uint8)


@pytest.fixture(scope="module")
def model(workplace: Path) -> Path:
    return workplace / "runs/residual/model.onnx"


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
import netkit
try:
    netkit.cli(sys.argv[1:])
finally:
    print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def only_row(model: Path, cwd: Path) -> dict[str, Any]:
    """What the command says of the only file in a folder, having kept within the limits."""
    command: list[str | Path] = [sys.executable, "-c", LIMITED, "infer", ".", "--model", model, "--json"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert done.returncode == (0 if row["status"] == "ok" else 1)
    assert "Traceback" not in done.stderr
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert int(peak) < LARGEST_KB
    return row


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


def noise(mode: str, form: str, **options: Any) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        levels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, len(mode)), np.uint8)
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


ZEROS = zlib.compress(bytes(2**30), 9)  # a gigabyte in a megabyte
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
    "a gigabyte of pixels more": (png(28, 28, png_chunk(b"IDAT", ZEROS)), "ok"),
    "a gigabyte of text": (
        png(28, 28, png_chunk(b"zTXt", b"Comment\0\0" + ZEROS), png_chunk(b"IDAT", PIXELS)), "damaged",
    ),
    "a gigabyte of profile": (
        png(28, 28, png_chunk(b"iCCP", b"p\0\0" + ZEROS), png_chunk(b"IDAT", PIXELS)), "damaged",
    ),
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
    "noise in WebP": (noise("RGB", "WEBP", method=0, quality=50), "ok"),
    "large WebP": (large("RGBA", "WEBP", lossless=True, method=0, quality=0), "ok"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_row_within_the_limits(case: str, tmp_path: Path, model: Path) -> None:
    made, status = CASES[case]
    path = tmp_path / "x.png"
    path.write_bytes(made) if isinstance(made, bytes) else made(path)
    row = only_row(model, tmp_path)
    assert (row["path"], row["status"]) == ("./x.png", status), row["message"]
    assert (row["label"] is None) == (status != "ok") == bool(row["message"])
