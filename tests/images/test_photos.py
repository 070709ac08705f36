"""Photos as cameras, phones and editors write them: much metadata, data after the image, and many pixels."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from netkit.core.errors import ImageError
from netkit.core.model_card import Input
from netkit.data import image_files
from netkit.data.options import Options
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.images.limits import MAX_PIXELS

PIXELS = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
SMALL = Decoder(Input(3, 28, 28))


def encode(image: Image.Image | NDArray[np.uint8], form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, form, **options)
    return stream.getvalue()


def decode(content: bytes, folder: Path, decoder: Decoder = SMALL) -> NDArray[np.uint8]:
    (folder / "photo").write_bytes(content)
    return decoder(str(folder / "photo"))


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Insert APP1 segments at the start of a JPEG file."""
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in segments) + jpeg[2:]


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Insert chunks (type and data) after the header of a PNG file."""
    parts = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in chunks)
    return png[:33] + b"".join(parts) + png[33:]


def turned(orientation: int) -> bytes:
    return b'<rdf:Description tiff:Orientation="%d"/>' % orientation


EXTENDED_XMP = [b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)] * 60  # a depth map
NOISE = np.random.default_rng(1).bytes(3_000_000)  # does not compress
VIDEO = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" * 500 + NOISE
JPEG = encode(PIXELS, "JPEG")
PRIVATE_TAG = TiffImagePlugin.ImageFileDirectory_v2()
PRIVATE_TAG[65_000] = bytes(5_000_000)
PRIVATE_TAG.tagtype[65_000] = 7
PRIVATE_TAG[700] = b" " * 2_000_000  # XMP
PRIVATE_TAG.tagtype[700] = 1
TEXT = PngImagePlugin.PngInfo()
TEXT.add_itxt("XML:com.adobe.xmp", "x" * 3_000_000)
TEXT.add_text("History", "x" * 3_000_000, zip=True)
TEXT.add_text("Comment", "x" * 3_000_000)


@pytest.mark.parametrize(
    ("plain", "photo"),
    [
        (JPEG, JPEG + VIDEO),
        (JPEG, with_segments(JPEG, *EXTENDED_XMP)),
        (JPEG, encode(PIXELS, "JPEG", icc_profile=NOISE, comment=b"x" * 60_000)),
        (encode(PIXELS, "PNG"), encode(PIXELS, "PNG", pnginfo=TEXT)),
        (encode(PIXELS, "PNG"), encode(PIXELS, "PNG", icc_profile=NOISE)),
        (encode(PIXELS, "PNG"), with_chunks(encode(PIXELS, "PNG"), b"prVt" + NOISE)),
        (encode(PIXELS, "PNG"), encode(Image.fromarray(PIXELS).convert("RGBA"), "PNG", pnginfo=TEXT)),
        (encode(PIXELS, "PNG"), encode(PIXELS, "TIFF", tiffinfo=PRIVATE_TAG)),
        (encode(PIXELS, "PNG"), encode(PIXELS, "TIFF", tiffinfo=PRIVATE_TAG, compression="tiff_lzw")),
    ],
    ids=["motion", "portrait", "ICC", "PNG text", "PNG ICC", "PNG private", "RGBA text", "TIFF tag", "TIFF LZW"],
)
def test_megabytes_beside_the_pixels_do_not_change_them(plain: bytes, photo: bytes, tmp_path: Path) -> None:
    assert np.array_equal(decode(photo, tmp_path), decode(plain, tmp_path))


@pytest.mark.parametrize(
    "photo",
    [
        with_segments(JPEG, b"http://ns.adobe.com/xap/1.0/\0" + turned(3), *EXTENDED_XMP),
        with_chunks(
            encode(np.asarray(Image.open(io.BytesIO(JPEG))), "PNG"), b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + turned(3)
        ),
    ],
    ids=["JPEG", "PNG"],
)
def test_an_orientation_in_xmp_is_applied(photo: bytes, tmp_path: Path) -> None:
    assert np.array_equal(decode(photo, tmp_path), decode(JPEG, tmp_path)[:, ::-1, ::-1])


@pytest.mark.parametrize("kind", [1, 7])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_an_orientation_in_the_xmp_of_a_tiff_is_applied_once(
    compression: str | None, orientation: int, kind: int, tmp_path: Path
) -> None:
    in_tag = encode(PIXELS, "TIFF", tiffinfo={ExifTags.Base.Orientation: orientation}, compression=compression)
    in_xmp = TiffImagePlugin.ImageFileDirectory_v2()
    in_xmp[700], in_xmp.tagtype[700] = turned(orientation), kind
    expected = decode(in_tag, tmp_path)
    assert np.array_equal(decode(encode(PIXELS, "TIFF", tiffinfo=in_xmp, compression=compression), tmp_path), expected)
    in_xmp[ExifTags.Base.Orientation] = 1  # the tag takes precedence
    assert np.array_equal(
        decode(encode(PIXELS, "TIFF", tiffinfo=in_xmp, compression=compression), tmp_path),
        decode(encode(PIXELS, "PNG"), tmp_path),
    )


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000"])
def test_avif_and_jpeg_2000_are_decoded(form: str, tmp_path: Path) -> None:
    content = encode(PIXELS, form)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode(content, tmp_path).transpose(1, 2, 0), np.asarray(image))


def photo(width: int, height: int) -> Image.Image:
    """Return blurred shapes with the noise of a camera."""
    generator = np.random.default_rng(2)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)).resize((width, height))
    return Image.fromarray(
        np.clip(np.asarray(coarse) + generator.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)
    )


DRAFTED = Input(3, 40, 60, draft=True)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("spec", [DRAFTED, replace(DRAFTED, resize=60), replace(DRAFTED, channels=1)])
@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_decoding_differs_by_at_most_2_levels(
    spec: Input, orientation: int, progressive: bool, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode(photo(1280, 960), "JPEG", quality=92, exif=exif, progressive=progressive)
    limit = 1280 * 960 * 9 // 10  # a full decode costs more
    reduced = decode(content, tmp_path, Decoder(spec, max_pixels=limit))
    full = decode(content, tmp_path, Decoder(replace(spec, draft=False)))
    assert np.abs(reduced.astype(int) - full).max() <= 2
    with pytest.raises(ImageError, match=r"to decode, over the limit of 1,105,920; raise --max-pixels|= 1,228,800"):
        decode(content, tmp_path, Decoder(replace(spec, draft=False), max_pixels=limit))


@pytest.mark.parametrize(("width", "height"), [(1279, 960), (350, 230), (119, 79)])
def test_a_jpeg_that_cannot_be_divided_or_is_under_six_times_the_target_is_decoded_in_full(
    width: int, height: int, tmp_path: Path
) -> None:
    content = encode(photo(width, height), "JPEG")
    full = decode(content, tmp_path, Decoder(replace(DRAFTED, draft=False)))
    assert np.array_equal(decode(content, tmp_path, Decoder(DRAFTED)), full)


@pytest.mark.parametrize(
    ("width", "height", "draft"),
    [
        (6016, 4016, False), (6048, 4024, False), (6048, 4024, True), (8000, 6000, True), (8192, 6144, True),
        (9504, 6336, True), (11648, 8736, True),
    ],
)  # fmt: skip
def test_photos_of_cameras_and_phones_are_decoded_within_the_default_limits(
    width: int, height: int, draft: bool
) -> None:
    content = encode(Image.new("L", (width, height), 100), "JPEG")
    with suppress_pillow_warnings():
        assert {*Decoder(Input(3, 224, 224, draft=draft))(content).flat} == {100}


@pytest.mark.parametrize("max_memory_bytes", [10**9, 0])
def test_training_and_inference_decode_large_photos_to_equal_pixels(tmp_path: Path, max_memory_bytes: int) -> None:
    paths = [tmp_path / label / f"{number}.jpg" for label in "ab" for number in range(5)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(photo(640, 480).rotate(len(str(path))), "JPEG"))
    data = image_files.load(tmp_path, Options(size=(40, 60)), max_memory_bytes=max_memory_bytes)
    assert data.draft
    decoder = Decoder(DRAFTED)
    decoded = {decoder(str(path)).tobytes() for path in paths}
    assert {image.tobytes() for part in (data.train_images, data.test_images) for image in part[:]} == decoded


def test_images_over_the_limits_of_the_options_are_not_in_a_data_set(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(100):
            Image.new("L", (10, 10), number).save(tmp_path / label / f"{number}.png")
    Image.new("L", (30, 30)).save(tmp_path / "a/large.png")
    options = Options(size=(10, 10), max_pixels=899)
    data = image_files.load(tmp_path, options)
    assert len(data.train_labels) + len(data.test_labels) == 200
    assert (data.max_pixels, data.max_bytes) == (899, options.max_bytes)
    data = image_files.load(tmp_path, replace(options, max_pixels=MAX_PIXELS))
    assert len(data.train_labels) + len(data.test_labels) == 201
