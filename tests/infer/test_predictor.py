"""The classifier of netkit.load gives the results of the command line."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netkit import load
from netkit.core.errors import ModelError, UsageError
from netkit.data.dataset import ArrayDataSet
from netkit.infer.predictor import Classifier
from netkit.infer.runtime.session import Session
from tests.support.commands import Netkit


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
        (np.zeros((2, 28, 28), np.float32), TypeError, "images must be uint8, from 0 to 255, not float32"),
        (np.zeros((28, 28), np.uint8), ValueError, r"the shape \(N, height, width\) or .* not \(28, 28\)"),
        (np.zeros((2, 28, 28, 2), np.uint8), ValueError, r"not \(2, 28, 28, 2\)"),
        (np.zeros((2, 0, 28), np.uint8), ValueError, r"images have no pixels: their shape is \(2, 0, 28\)"),
    ],
)
def test_arrays_of_another_dtype_or_shape_are_rejected(
    classify: Classifier, images: "np.ndarray[Any, Any]", error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        classify(images)


def test_a_model_that_fails_verification_is_not_opened(model_path: Path, tmp_path: Path) -> None:
    content = bytearray(model_path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        load(tmp_path / "m.onnx")


def test_bytes_as_paths_sizes_below_one_and_unknown_devices_are_rejected(
    classify: Classifier, model_path: Path
) -> None:
    for wrong in (b"x.png", [b"x.png"]):
        with pytest.raises(TypeError, match="paths must be str or PathLike, not bytes"):
            classify(wrong)  # type: ignore[arg-type]
    for batch_size, top_k in ((0, 1), (-1, 1), (64, 0)):
        with pytest.raises(UsageError, match="batch_size and top_k must be at least 1"):
            load(model_path, device="cpu", batch_size=batch_size, top_k=top_k)
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        load(model_path, device="tpu")


def test_the_repr_is_short(classify: Classifier) -> None:
    assert repr(classify) == "<Classifier residual on CPUExecutionProvider, labels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9>"
    assert len(repr(classify.session)) < 10_000
