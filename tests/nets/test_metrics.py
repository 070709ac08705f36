"""The rows of metrics.csv, and the evaluation of a network."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from netkit.core.model_card import ModelCard
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from netkit.nets.training.feed import Feed
from netkit.nets.training.metrics import EpochMetrics, evaluate, write_csv

COLUMNS = ["epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"]


def test_csv_has_the_documented_columns_and_exact_numbers(tmp_path: Path) -> None:
    rows = [EpochMetrics(1, 469, 0.1, 1 / 3, 0.9, 0.5, 0.91, 1.5), EpochMetrics(2, 938, 1e-9, 0.1, 1, 0.2, 0.95, 2.5)]
    write_csv(tmp_path / "metrics.csv", rows)
    with open(tmp_path / "metrics.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == COLUMNS
    numbers = [[1, 469, 0.1, 1 / 3, 0.9, 0.5, 0.91, 1.5], [2, 938, 1e-9, 0.1, 1, 0.2, 0.95, 2.5]]
    assert [[float(cell) for cell in line] for line in lines] == numbers
    write_csv(tmp_path / "val.csv", [replace(row, split="val") for row in rows])
    assert (tmp_path / "val.csv").read_text() == (tmp_path / "metrics.csv").read_text().replace("test_", "val_")


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_evaluation_is_the_mean_over_any_number_of_images(card: ModelCard, count: int) -> None:
    torch.manual_seed(0)
    model = FromPixels(build(card), card)
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 28, 28), np.uint8)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 10, count))
    loss, accuracy = evaluate(model, Feed(images, torch.device("cpu")), labels)
    with torch.no_grad():
        logits = model(torch.from_numpy(images)).double().numpy()
    log_sums = np.log(np.exp(logits).sum(axis=1))
    assert loss == pytest.approx((log_sums - logits[np.arange(count), labels]).mean(), rel=1e-5)
    assert accuracy == (logits.argmax(axis=1) == labels.numpy()).sum() / count
    assert not model.training
