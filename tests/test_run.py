"""A training run: what it leaves in its folder, what it replaces, and how its data set is found again."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nets.card import ModelCard
from nets.data.dataset import DataSet
from nets.errors import DataError, ModelError, UsageError
from nets.training import checkpoint, run
from nets.training.recipe import recipe_named

RECIPE = replace(recipe_named("fast"), epochs=2)


def train(data: DataSet, out: Path, *, seed: int = 0) -> run.TrainedRun:
    return run.train(
        arch="residual", data=data, recipe=RECIPE, seed=seed, device="cpu", out=out,
        on_step=lambda images, loss: None, on_epoch=lambda row: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits_data: DataSet) -> run.TrainedRun:
    return train(digits_data, tmp_path_factory.mktemp("run") / "deep/residual")


def test_card_tells_where_the_weights_came_from(trained: run.TrainedRun, digits_data: DataSet) -> None:
    _, card = checkpoint.load(trained.weights)
    assert card == trained.card
    assert (card.arch, card.labels, card.channels, card.height, card.width) == (
        "residual", tuple("0123456789"), 1, 28, 28,
    )  # fmt: skip
    assert (card.origin.data, card.origin.data_sha256, card.origin.seed) == ("digits", digits_data.sha256, 0)
    assert card.origin.recipe["name"] == "fast" and card.origin.recipe["epochs"] == 2
    pixels = digits_data.train_images / 255
    assert card.mean == pytest.approx((pixels.mean(),), abs=1e-4) and card.std == pytest.approx(
        (pixels.std(),), abs=1e-4
    )


def test_accuracy_on_the_card_is_the_last_one_in_the_metrics(trained: run.TrainedRun) -> None:
    with open(trained.weights.with_name("metrics.csv")) as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["test_accuracy"]) == trained.card.origin.test_accuracy


def test_arguments_are_kept_beside_the_weights(trained: run.TrainedRun) -> None:
    arguments = json.loads(trained.weights.with_name("run.json").read_text())
    assert (arguments["arch"], arguments["data"], arguments["seed"]) == ("residual", "digits", 0)
    assert arguments["recipe"]["batch_size"] == 128


def test_seed_decides_the_weights(trained: run.TrainedRun, tmp_path: Path, digits_data: DataSet) -> None:
    same, other = (train(digits_data, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert same.weights.read_bytes() == trained.weights.read_bytes()
    assert other.weights.read_bytes() != trained.weights.read_bytes()


def test_an_earlier_run_is_replaced_and_its_model_with_it(
    tmp_path: Path, digits_data: DataSet, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("model.safetensors", "model.onnx", "metrics.csv", "mine.txt"):
        (tmp_path / name).write_text("earlier")
    with caplog.at_level(logging.INFO, "nets"):
        train(digits_data, tmp_path)
    assert f"replacing the run in {tmp_path}" in caplog.messages
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "metrics.csv", "run.json", "mine.txt"}


def test_wrong_arguments_leave_an_earlier_run_alone(tmp_path: Path, digits_data: DataSet) -> None:
    (tmp_path / "model.safetensors").write_text("earlier")
    small = replace(digits_data, train_images=digits_data.train_images[:, :, :9, :9])
    with pytest.raises(UsageError, match="residual cannot take 9x9 images: it needs at least 16x16"):
        train(small, tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "earlier"


def test_data_of_a_run_is_found_again_by_what_run_json_says(trained: run.TrainedRun, digits_data: DataSet) -> None:
    data = run.data_of(trained.weights.parent, trained.card)
    assert np.array_equal(data.test_images, digits_data.test_images)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "null"])
def test_a_run_that_does_not_say_where_its_data_lies_asks_for_it(
    tmp_path: Path, trained: run.TrainedRun, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ModelError, match=r"run\.json: does not say where the data lies \(.*\); use --data"):
        run.data_of(tmp_path, trained.card)
    assert run.data_of(tmp_path, trained.card, source="digits").name == "digits"


def test_another_data_set_than_the_cards_is_refused(trained: run.TrainedRun, card: ModelCard) -> None:
    other = replace(trained.card, origin=replace(trained.card.origin, data_sha256="0" * 64))
    with pytest.raises(DataError, match="digits: not the data set that the run was trained on"):
        run.data_of(trained.weights.parent, other)
