"""The training loop, against the same loop written plainly."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets.build import build
from nets.card import ModelCard
from nets.data.dataset import DataSet
from nets.errors import TrainingError
from nets.pixels import FromPixels
from nets.training.fit import fit, permutation
from nets.training.metrics import EpochMetrics
from nets.training.recipe import Recipe, recipe_named

CPU = torch.device("cpu")


def fresh(card: ModelCard) -> FromPixels:
    torch.manual_seed(0)
    return FromPixels(build(card), card)


def trained(model: FromPixels, data: DataSet, recipe: Recipe) -> tuple[list[EpochMetrics], list[tuple[int, float]]]:
    """The epochs' metrics, and what on_step was told."""
    steps: list[tuple[int, float]] = []
    rows = fit(model, data, recipe=recipe, seed=3, device=CPU, on_step=lambda *told: steps.append(told))
    return list(rows), steps


def test_the_seed_recipe_is_the_textbooks_loop(card: ModelCard, digits_data: DataSet) -> None:
    """Plain SGD on plain float batches, normalised beforehand as torchvision's ToTensor and Normalize do."""
    plain = fresh(card).net
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.5)
    images = (torch.from_numpy(digits_data.train_images).float() / 255 - card.mean[0]) / card.std[0]
    labels = torch.from_numpy(digits_data.train_labels)
    losses = []
    for epoch in (1, 2):
        for rows in permutation(len(labels), seed=3, epoch=epoch).split(64):
            loss = F.cross_entropy(plain(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(rows))
    model = fresh(card)
    metrics, _ = trained(model, digits_data, replace(recipe_named("seed"), epochs=2))
    for ours, theirs in zip(model.net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert [row.step for row in metrics] == [23, 46]
    assert sum(row.train_loss for row in metrics) == pytest.approx(sum(losses) / len(labels), rel=1e-4)
    assert {row.lr for row in metrics} == {0.01}


def test_metrics_are_those_of_the_weights_at_the_epochs_end(card: ModelCard, digits_data: DataSet) -> None:
    model = fresh(card)
    metrics, _ = trained(model, digits_data, replace(recipe_named("fast"), epochs=3))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(digits_data.test_images))
    right = (logits.argmax(1).numpy() == digits_data.test_labels).sum()
    assert metrics[-1].test_accuracy == right / len(digits_data.test_labels) > 0.5
    truth = torch.from_numpy(digits_data.test_labels)
    assert metrics[-1].test_loss == pytest.approx(nn.CrossEntropyLoss()(logits, truth).item(), rel=1e-5)
    assert [row.epoch for row in metrics] == [1, 2, 3]
    assert metrics[2].train_loss < metrics[0].train_loss


def test_onecycle_ends_far_below_its_peak(card: ModelCard, digits_data: DataSet) -> None:
    recipe = replace(recipe_named("fast"), epochs=2, lr=0.05)
    metrics, _ = trained(fresh(card), digits_data, recipe)
    assert metrics[-1].lr == pytest.approx(0.05 / 25 / 1e4)  # torch's div_factor and final_div_factor


def test_progress_counts_every_image_once_an_epoch(card: ModelCard, digits_data: DataSet) -> None:
    _, steps = trained(fresh(card), digits_data, replace(recipe_named("fast"), epochs=2))
    assert sum(images for images, _ in steps) == 2 * len(digits_data.train_labels)
    assert all(math.isfinite(loss) for _, loss in steps)


def test_order_is_a_permutation_that_seed_and_epoch_alone_decide() -> None:
    first = permutation(1000, seed=0, epoch=1)
    torch.rand(5)
    np.random.rand(5)
    assert torch.equal(first, permutation(1000, seed=0, epoch=1))
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, permutation(1000, seed=0, epoch=2))
    assert not torch.equal(first, permutation(1000, seed=1, epoch=1))


def test_a_loss_that_is_no_number_stops_training(card: ModelCard, digits_data: DataSet) -> None:
    recipe = replace(recipe_named("seed"), lr=1e6, epochs=2)
    with pytest.raises(
        TrainingError, match=r"the loss became (nan|inf) in epoch 1, at a learning rate of up to 1000000"
    ):
        trained(fresh(card), digits_data, recipe)
