"""Training fits a temperature to the validation images, and each exported file has its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from netkit.data.dataset import ArrayDataSet
from netkit.data.temperature import fit_temperature, softmax
from netkit.export.exporter import export
from netkit.infer.model import onnx_file, verify
from netkit.infer.runtime.session import open_session
from netkit.nets.training import checkpoint, run
from netkit.nets.training.plan import Plan
from netkit.nets.training.recipe import recipe_named


def split(data: ArrayDataSet, count: int) -> tuple[ArrayDataSet, NDArray[np.uint8], NDArray[np.int64]]:
    """Return the data with `count` of the training images as validation images, and these images and labels."""
    images, labels = data.train_images[:count], data.train_labels[:count]
    rest = replace(data, train_images=data.train_images[count:], train_labels=data.train_labels[count:])
    return replace(rest, val_images=images, val_labels=labels), images, labels


def trained(data: ArrayDataSet, out: Path) -> Path:
    recipe = replace(recipe_named("fast", arch="residual"), epochs=2, batch_size=32)
    return run.train(Plan(arch="residual", recipe=recipe, seed=0, device="cpu", out=out), data).weights


def test_each_precision_gets_the_temperature_that_fits_its_own_logits(
    tmp_path: Path, digits_data: ArrayDataSet
) -> None:
    data, val_images, val_labels = split(digits_data, 300)
    net, card = checkpoint.load(trained(data, tmp_path))
    assert card.confidence.images == 300 and card.confidence.temperature != 1
    paths = {precision: tmp_path / f"{precision}.onnx" for precision in ("fp32", "int8")}
    certificates = export(net, paths, card=card, data=data, max_drop=1)
    for precision, path in paths.items():
        model = onnx_file.read(path)
        logits, _ = open_session(model, device="cpu").run(val_images)
        temperature = model.card.confidence.temperature
        assert temperature == pytest.approx(fit_temperature(logits, val_labels), abs=2e-4)
        logits, probabilities = open_session(model, device="cpu").run(data.test_images)
        assert probabilities == pytest.approx(softmax(logits, temperature), abs=1e-5)
        assert all(check.ok for check in verify.verify(model, device="cpu"))
        assert {comparison.temperature for comparison in certificates[precision].comparisons} == {temperature}


def test_with_fewer_than_100_validation_images_the_probabilities_are_not_calibrated(
    tmp_path: Path, digits_data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _, card = checkpoint.load(trained(split(digits_data, 99)[0], tmp_path))
    assert (card.confidence.temperature, card.confidence.images) == (1.0, 0)
    assert "99 validation images, but calibration needs at least 100" in caplog.text


def test_the_temperature_of_the_card_fits_the_logits_of_the_trained_network(
    tmp_path: Path, digits_data: ArrayDataSet
) -> None:
    data, val_images, val_labels = split(digits_data, 200)
    weights = trained(data, tmp_path)
    net, card = checkpoint.load(weights)
    pixels = (val_images / 255 - np.reshape(card.mean, (-1, 1, 1))) / np.reshape(card.std, (-1, 1, 1))
    with torch.no_grad():
        logits = net(torch.from_numpy(pixels.astype(np.float32))).numpy()
    assert card.confidence.temperature == pytest.approx(fit_temperature(logits, val_labels), abs=2e-4)
