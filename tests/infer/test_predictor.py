"""The classifier of netkit.load gives the results of the command line."""

import csv
import io
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from netkit import load
from netkit.core.errors import ModelError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file
from netkit.infer.predictor import Classifier
from netkit.infer.runtime.session import Session, open_session
from tests.support.commands import Netkit
from tests.support.onnx_models import linear_model


@pytest.fixture(scope="module")
def model_path(workspace: Path) -> Path:
    return workspace / "runs/residual/model.onnx"


@pytest.fixture(scope="module")
def classify(model_path: Path) -> Classifier:
    return load(model_path, device="cpu", top_k=3)


def test_paths_get_the_rows_of_the_command_line(
    classify: Classifier, model_path: Path, netkit: Netkit, tmp_path: Path, digits_data: ArrayDataSet
) -> None:
    for index, image in enumerate(digits_data.test_images[:9]):
        Image.fromarray(image[0]).save(tmp_path / f"{index}.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    paths = sorted(tmp_path.iterdir())
    rows = classify(paths)
    assert netkit("infer", ".", "--model", model_path, "--top-k", "3", "--out", "r.csv").returncode == 1
    with open(tmp_path / "r.csv") as file:
        table = list(csv.DictReader(file))
    for row, path, line in zip(rows, paths, table, strict=True):
        assert row.path == str(path)
        assert (row.status, row.label or "") == (line["status"], line["label"])
        if row.status == "ok":
            assert row.probability == pytest.approx(float(line["probability"]), abs=1e-5)
            assert row.ranked[2][0] == line["label_3"]
        else:
            assert (row.label, row.probability) == (None, None) and row.message
    assert classify(paths[0]) == rows[0]
    assert classify(str(paths[0])) == rows[0]
    assert classify([]) == []


def test_arrays_get_the_predictions_of_the_session(
    classify: Classifier, session: Session, digits_data: ArrayDataSet
) -> None:
    images = digits_data.test_images[:70, 0]
    rows = classify(images)
    _, probabilities = session.run(images[:, None])
    assert [row.label for row in rows] == [classify.labels[index] for index in probabilities.argmax(axis=1)]
    assert [row.probability for row in rows] == pytest.approx(probabilities.max(axis=1).tolist(), abs=1e-6)
    for same in (images[..., None], np.stack([images] * 3, axis=-1)):
        assert [row.label for row in classify(same)] == [row.label for row in rows]
    (small,) = classify(np.kron(images[:1], np.ones((2, 2), np.uint8)))  # twice the size: resized to 28x28
    assert small.label == rows[0].label


def test_invert_swaps_dark_and_light(model_path: Path, classify: Classifier, digits_data: ArrayDataSet) -> None:
    images = digits_data.test_images[:20, 0]
    inverting = load(model_path, device="cpu", top_k=3, invert=True)
    assert inverting(255 - images) == classify(images)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 28, 28), np.float32), TypeError, "must be uint8, from 0 to 255, not float32; .*astype"),
        (np.zeros(28, np.uint8), ValueError, r"must have the shape \(height, width\), .* not \(28,\)"),
        (np.zeros((2, 28, 28, 2), np.uint8), ValueError, r"not \(2, 28, 28, 2\)$"),
        (np.zeros((2, 3, 28, 28), np.uint8), ValueError, r"not \(2, 3, 28, 28\); pass images.transpose\(0, 2, 3, 1\)"),
        (np.zeros((28, 28, 2), np.uint8), ValueError, r"\(28, 28, 2\) may be one image with grey and alpha; .*Image"),
        (np.zeros((2, 0, 28), np.uint8), ValueError, r"the image has no pixels: its shape is \(0, 28\)"),
        (np.zeros((0, 28, 3), np.uint8), ValueError, r"the image has no pixels: its shape is \(0, 28, 3\)"),
    ],
)
def test_arrays_of_another_dtype_or_shape_are_rejected(
    classify: Classifier, images: "np.ndarray[Any, Any]", error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        classify(images)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits_data: ArrayDataSet) -> dict[str, Path]:
    """A grey PNG, an RGBA PNG, a 16-bit PNG, a JPEG that is turned by its EXIF, and a damaged PNG."""
    folder = tmp_path_factory.mktemp("files")
    digit = digits_data.test_images[3, 0]
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    rgba = np.dstack([np.full((28, 28, 3), 255, np.uint8), digit])
    paths = {name: folder / name for name in ("grey.png", "rgba.png", "deep.png", "turned.jpg", "damaged.png")}
    Image.fromarray(digit).save(paths["grey.png"])
    Image.fromarray(rgba).save(paths["rgba.png"])
    Image.fromarray(digit.astype(np.uint16) * 257).save(paths["deep.png"])
    Image.fromarray(np.rot90(digit)).save(paths["turned.jpg"], exif=turned, quality=95)
    paths["damaged.png"].write_bytes(paths["grey.png"].read_bytes()[:150])
    return paths


def test_all_forms_of_an_image_get_the_row_of_its_path(classify: Classifier, files: dict[str, Path]) -> None:
    for name, path in files.items():
        expected = classify(path)
        content = path.read_bytes()
        with open(path, "rb") as opened:
            rows = [classify(content), classify(bytearray(content)), classify(io.BytesIO(content)), classify(opened)]
        with Image.open(path) as pixels:
            rows += [classify(pixels), classify(pixels), *classify([pixels, content, io.BytesIO(content)])]
        assert expected.status == ("truncated" if name == "damaged.png" else "ok")
        for row in rows:
            assert row.path == "" and row.ranked == expected.ranked
            # a Pillow image has no bytes that tell a truncated file from a damaged one
            assert (row.status == "ok") == (expected.status == "ok") and bool(row.message) == bool(expected.message)
        assert {row.status for row in (*rows[:4], *rows[-2:])} == {expected.status}


def test_a_pillow_image_is_not_changed(classify: Classifier, files: dict[str, Path]) -> None:
    with Image.open(files["rgba.png"]) as image:
        before = image.tobytes()
        classify(image)
        assert image.tobytes() == before and image.mode == "RGBA"


def test_mixed_images_get_one_row_each_in_order(classify: Classifier, files: dict[str, Path]) -> None:
    path, content = files["grey.png"], files["grey.png"].read_bytes()
    pixels = np.asarray(Image.open(path))
    same: list[Any] = [
        path,
        content,
        Image.fromarray(pixels),
        pixels,
        str(path),
        pixels[..., None],
        np.dstack([pixels] * 3),
    ]
    rows = classify(iter([*same, b"no image", "missing.png"]))
    assert [row.path for row in rows] == [str(path), "", "", "", str(path), "", "", "", "missing.png"]
    assert [row.status for row in rows] == ["ok"] * 7 + ["not-an-image", "not-found"]
    assert {row.label for row in rows[:7]} == {rows[0].label}
    assert [row.probability for row in rows[:7]] == pytest.approx([rows[0].probability] * 7, abs=1e-6)


@pytest.mark.parametrize(
    "shape", [(28, 28), (40, 30), (28, 28, 1), (28, 28, 3), (5, 7, 4), (3, 28, 3), (28, 28, 28, 1)]
)
def test_an_array_of_one_image_gets_one_row(classify: Classifier, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if len(shape) == 4:
        assert len(classify(images)) == 28
        return
    row = classify(images)
    assert row.status == "ok" and [row] == classify([images])
    assert [row] == classify(images.reshape(1, *shape[:2], -1))


def test_arrays_of_an_unclear_shape_are_rejected_with_what_to_pass(card: ModelCard) -> None:
    def classifier(height: int, width: int, channels: int) -> Classifier:
        other = replace(
            card, height=height, width=width, channels=channels, mean=(0.1,) * channels, std=(0.3,) * channels
        )
        opened = open_session(onnx_file.check(linear_model(other).SerializeToString(), "m.onnx"), device="cpu")
        return Classifier(opened, Decoder(other.input), batch_size=8, top_k=1, device="cpu")

    narrow, rgb = classifier(9, 3, 1), classifier(9, 9, 3)
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"\(6, 9, 3\) may be .*one image pass images\[None\], for N grey images pass"):
        narrow(images)
    assert (len(narrow(images[None])), len(narrow(images[..., None]))) == (1, 6)
    assert narrow(images[:, :8]).status == "ok"  # not the size of the model: one RGB image
    chw = images.reshape(3, 9, 6)
    with pytest.raises(ValueError, match=r"\(3, 9, 6\) may be 3 grey images, or .*images\.transpose\(1, 2, 0\)"):
        rgb(chw)
    assert rgb(chw.transpose(1, 2, 0)).status == "ok" and len(rgb(chw[..., None])) == 3
    assert len(rgb(images.reshape(9, 3, 6))) == 9


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 28, 28, dtype=torch.uint8), "an image must be a path, bytes, .*uint8 array, not Tensor"),
        ([[0, 1], [2, 3]], "not list"),
        ([None], "not NoneType"),
        (7, "or several of them, not int"),
        (None, "or several of them, not NoneType"),
        (io.StringIO("text"), "a file object must return bytes, not str: open the file in mode 'rb'"),
    ],
    ids=["tensor", "list", "None in a list", "int", "None", "text file"],
)
def test_other_types_are_rejected_with_those_that_are_accepted(classify: Classifier, images: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        classify(images)


def test_a_text_file_is_rejected_before_its_bytes_are_decoded(classify: Classifier, files: dict[str, Path]) -> None:
    with open(files["grey.png"], encoding="utf-8") as file, pytest.raises(TypeError, match="open the file in mode"):
        classify(file)


def test_a_file_object_at_its_end_is_a_row_that_says_so(classify: Classifier, files: dict[str, Path]) -> None:
    with open(files["grey.png"], "rb") as file:
        assert classify(file).status == "ok"
        row = classify(file)
    assert (row.status, row.message) == ("not-an-image", "no bytes; a file object is read from its current position")


def test_a_pillow_image_without_pixels_is_rejected(classify: Classifier) -> None:
    with pytest.raises(ValueError, match="the image has no pixels: its size is 0x5"):
        classify(Image.new("L", (0, 5)))


@pytest.mark.parametrize("limit", ["max_bytes", "max_pixels"])
def test_content_over_the_limit_is_a_row_with_an_error(model_path: Path, files: dict[str, Path], limit: str) -> None:
    limited = load(model_path, device="cpu", **{limit: 20})  # type: ignore[arg-type]
    assert limited(files["grey.png"].read_bytes()).status == limited(files["grey.png"]).status == "too-large"


def test_a_pickled_classifier_gives_the_same_rows_in_another_process(
    model_path: Path, digits_data: ArrayDataSet
) -> None:
    original = load(model_path, device="cpu", batch_size=7, top_k=3, invert=True)
    images = digits_data.test_images[:20, 0]
    copied = pickle.loads(pickle.dumps(original))
    assert (copied.batch_size, copied.top_k, copied.decoder, copied.device) == (7, 3, original.decoder, "cpu")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(original, (images,)) == copied(images) == original(images)


def test_threads_may_share_a_classifier(classify: Classifier, digits_data: ArrayDataSet) -> None:
    images = list(digits_data.test_images[:100, 0])
    expected = [classify(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classify, images * 3)) == expected * 3
        assert list(pool.map(lambda _: classify(images), range(8))) == [classify(images)] * 8


def test_a_classifier_warns_of_brightness_once_also_for_single_images(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    warned = load(model_path, device="cpu")
    assert warned(np.full((28, 28), 80, np.uint8)).status == "ok" and not caplog.messages
    for _ in range(3):
        warned(tmp_path / "white.png")
    assert len(caplog.messages) == 1 and "the mean brightness of the images is" in caplog.messages[0]


def test_a_model_that_fails_verification_is_not_opened(model_path: Path, tmp_path: Path) -> None:
    content = bytearray(model_path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        load(tmp_path / "m.onnx")


def test_sizes_below_one_and_unknown_devices_are_rejected(model_path: Path) -> None:
    for batch_size, top_k in ((0, 1), (-1, 1), (64, 0)):
        with pytest.raises(UsageError, match="batch_size and top_k must be at least 1"):
            load(model_path, device="cpu", batch_size=batch_size, top_k=top_k)
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        load(model_path, device="tpu")


def test_the_repr_is_short(classify: Classifier) -> None:
    assert repr(classify) == "<Classifier residual on the CPU, labels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9>"
    assert len(repr(classify.session)) < 10_000
