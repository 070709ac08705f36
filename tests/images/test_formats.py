"""Files that are not decoded: the message names the kind of file, and the code says whether it is damaged."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.core.errors import ImageError
from netkit.core.model_card import Input
from netkit.images.decoder import Decoder

LEVELS = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def tiff(*, bits: int = 8, compression: int = 1, photometric: int = 1, sample_format: int = 1) -> bytes:
    """Return a TIFF file of 28x28 pixels with one sample each."""
    pixels = bytes(range(256)) * 25
    fields = {
        256: 28, 257: 28, 258: bits, 259: compression, 262: photometric, 273: 8, 277: 1, 278: 28, 279: len(pixels),
        339: sample_format,
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in fields.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(fields)) + entries + bytes(4)


JPEG, BMP = encode(Image.fromarray(LEVELS), "JPEG"), encode(Image.fromarray(LEVELS), "BMP")


def bmp(compression: int) -> bytes:
    return BMP[:30] + struct.pack("<I", compression) + BMP[34:]


def jpeg(frame: bytes, bits: bytes = b"\x08") -> bytes:
    return JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff" + frame + b"\0\x11" + bits)


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported", "a HEIC photo"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "unsupported", "a HEIC photo"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "unsupported", "a Canon raw photo"),
        (b"\xff\x0a\x7f\x10", "unsupported", "a JPEG XL image"),
        (b"8BPS\0\1", "unsupported", "a Photoshop file"),
        (encode(Image.fromarray(LEVELS), "ICO"), "unsupported", "an icon"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported", "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<svg/>', "unsupported", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "not-an-image", "an XML file"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<title>404</title>", "not-an-image", "an HTML page"),
        (b"<HTML><body>Sign in", "not-an-image", "an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "not-an-image",
            "a Git LFS pointer, not the image; run git lfs pull",
        ),
        (b"%PDF-1.7\n", "not-an-image", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not-an-image", "a PostScript file"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "not-an-image", "an MP4 or QuickTime video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "not-an-image", "an MP4 or QuickTime video"),
        (b"RIFF\0\0\0\0AVI LIST", "not-an-image", "an AVI video"),
        (b"\x1a\x45\xdf\xa3\x01\0", "not-an-image", "a Matroska or WebM video"),
        (b"PK\3\4\x14\0", "not-an-image", "a ZIP archive"),
        (bmp(4), "unsupported", "cannot be decoded: Unsupported BMP compression (4)"),
        (bmp(5), "unsupported", "cannot be decoded: Unsupported BMP compression (5)"),
        (encode(Image.frombytes("LAB", (28, 28), LEVELS.tobytes()), "TIFF"), "unsupported", "in the color space LAB"),
        (tiff(bits=16, sample_format=2), "unsupported", "TIFF with signed pixels"),
        (tiff(bits=8, sample_format=2), "unsupported", "TIFF with signed pixels"),
        (tiff(bits=10), "unsupported", "unknown pixel mode"),
        (tiff(bits=16, sample_format=3), "unsupported", "unknown pixel mode"),
        (tiff(bits=16, photometric=32803), "unsupported", "unknown pixel mode"),
        (tiff(compression=34712), "unsupported", "compression 34712 is not supported"),
        (jpeg(b"\xc0", bits=b"\x0c"), "unsupported", "cannot handle 12-bit layers"),
        (jpeg(b"\xc3"), "unsupported", "arithmetic, lossless or hierarchical coding"),
        (jpeg(b"\xc5"), "unsupported", "arithmetic, lossless or hierarchical coding"),
        (b"\x89PNG\r\n\x1a\n" + bytes.fromhex("00000004 43674249 50002002 2bd5b37f"), "unsupported", "Xcode"),
        (tiff(compression=5), "damaged", "cannot be decoded: "),
        (tiff(compression=8), "damaged", "cannot be decoded: "),
        (encode(Image.fromarray(LEVELS), "AVIF")[:200], "damaged", "cannot be decoded: "),
        (encode(Image.fromarray(LEVELS), "JPEG2000")[:90], "damaged", "cannot be decoded: "),
        (JPEG[:20] + b"\xff\x02" + JPEG[20:], "damaged", "cannot be decoded: no marker found"),
        ("path,label\r\nm\u00e4use/1.png,1\n".encode(), "not-an-image", "a text file, not an image; it begins with "),
        (b"<!-- saved --><html>", "not-an-image", "an HTML page"),
        (b"404: Not Found\n", "not-an-image", "a text file, not an image; it begins with '404: Not Found'"),
        (b'{"error": 1}', "not-an-image", """a text file, not an image; it begins with '{"error": 1}'"""),
        (b"SQLite format 3\0\x10\0", "not-an-image", "cannot be read as one of PNG, JPEG, "),
        (BMP[:1000], "truncated", "image file is truncated"),
        (encode(Image.fromarray(LEVELS), "TIFF")[:1000], "truncated", "image file is truncated"),
        (encode(Image.fromarray(LEVELS), "TIFF", compression="tiff_lzw")[:400], "truncated", "the file ends before"),
        (encode(Image.fromarray(LEVELS), "WEBP")[:200], "truncated", "cannot be decoded: "),
    ],
)  # fmt: skip
def test_a_file_that_is_not_decoded_is_named_for_what_it_is(
    content: bytes, code: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        Decoder(Input(1, 28, 28))(str(tmp_path / "a.jpg"))
    assert message in str(caught.value) and caught.value.code == code


DECODE = """
import sys
from PIL import Image
from netkit.core.errors import ImageError
from netkit.core.model_card import Input
from netkit.images.decoder import Decoder
for decode in (Decoder(Input(1, 28, 28)), lambda path: Image.open(path).load()):
    try:
        decode(sys.argv[1])
    except (ImageError, OSError) as exc:
        print("error", file=sys.stderr, flush=True)
"""


def test_libtiff_writes_nothing_while_netkit_decodes_and_as_before_afterwards(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(compression=5))
    command = [sys.executable, "-W", "ignore", "-c", DECODE, str(tmp_path / "a.tif")]
    lines = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True).stderr.splitlines()
    assert lines[0] == "error" and "LZWDecode" in lines[1] and lines[2] == "error"
