"""The training loop, against the same loop written plainly, and against itself after a pause."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netkit.core.errors import TrainingError
from netkit.core.model_card import ModelCard
from netkit.data import image_files
from netkit.data.dataset import ArrayDataSet, DataSet
from netkit.data.options import Options
from netkit.data.sample import write_sample
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.normalize import FromPixels
from netkit.nets.training.recipe import Recipe, recipe_named
from netkit.nets.training.sampling import permutation
from netkit.nets.training.trainer import Training

PLAIN = replace(recipe_named("baseline"), epochs=2)
FULL = replace(recipe_named("fast"), epochs=4, batch_size=256)  # 6 + 6 + 3 + 3 steps on the digits


def start(card: ModelCard, data: DataSet, recipe: Recipe, *, weights: int = 0) -> Training:
    """A training of the card's net; `weights` is the seed of the first ones, 3 that of all else."""
    torch.manual_seed(weights)
    model = FromPixels(build(card), card)
    return Training(model, data, recipe=recipe, seed=3, device=torch.device("cpu"))


def finished(training: Training) -> Training:
    list(training.run())
    return training


def first_images(data: ArrayDataSet, count: int) -> ArrayDataSet:
    """The first images for training, and as many for the test."""
    return replace(
        data,
        train_images=data.train_images[:count],
        train_labels=data.train_labels[:count],
        test_images=data.test_images[:count],
        test_labels=data.test_labels[:count],
    )


def same_bits(one: Training, other: Training) -> bool:
    a, b = one.snapshot(), other.snapshot()
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors
    )


def test_the_baseline_recipe_is_the_loop_in_textbooks(card: ModelCard, digits_data: ArrayDataSet) -> None:
    """Plain SGD on plain float batches, normalised beforehand as torchvision's ToTensor and Normalize do."""
    training = start(card, digits_data, PLAIN)
    torch.manual_seed(0)
    plain = build(card)
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
    metrics = finished(training).rows
    for ours, theirs in zip(training.result.net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert [row.step for row in metrics] == [23, 46]
    assert sum(row.train_loss for row in metrics) == pytest.approx(sum(losses) / len(labels), rel=1e-4)
    assert {row.lr for row in metrics} == {0.01}


def test_metrics_are_those_of_the_averaged_weights_at_the_epochs_end(
    card: ModelCard, digits_data: ArrayDataSet
) -> None:
    training = finished(start(card, digits_data, replace(FULL, epochs=6, ema=0.9)))
    with torch.no_grad():
        logits = training.result.eval()(torch.from_numpy(digits_data.test_images))
    last = training.rows[-1]
    right = (logits.argmax(1).numpy() == digits_data.test_labels).sum()
    assert last.test_accuracy == right / len(digits_data.test_labels) > 0.5
    truth = torch.from_numpy(digits_data.test_labels)
    assert last.test_loss == pytest.approx(nn.CrossEntropyLoss()(logits, truth).item(), rel=1e-5)
    assert [row.epoch for row in training.rows] == [1, 2, 3, 4, 5, 6]
    assert last.train_loss < training.rows[0].train_loss


def test_the_average_is_an_exponential_one(card: ModelCard, digits_data: ArrayDataSet) -> None:
    training = start(card, digits_data, replace(PLAIN, ema=0.75))
    weight = training.model.get_parameter("net.linear.bias")
    expected = None
    for _ in islice(training.run(), 10):
        now = weight.detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    assert expected is not None
    torch.testing.assert_close(training.result.get_parameter("net.linear.bias"), expected)
    assert not torch.equal(training.result.get_parameter("net.linear.bias"), weight)


def test_step_metrics_tell_the_epoch_and_its_accuracy_so_far(card: ModelCard, digits_data: ArrayDataSet) -> None:
    training = start(card, digits_data, FULL)
    found = [metrics for metrics in training.run() if metrics]
    assert [metrics.epoch for metrics in found] == [1] * 6 + [2] * 6 + [3] * 3 + [4] * 3
    assert found[5].accuracy == training.rows[0].train_accuracy
    assert found[17].accuracy == training.rows[3].train_accuracy
    assert all(math.isfinite(metrics.loss) and 0 <= metrics.accuracy <= 1 for metrics in found)


def test_order_is_a_permutation_that_seed_and_epoch_alone_decide() -> None:
    first = permutation(1000, seed=0, epoch=1)
    torch.rand(5)
    np.random.rand(5)
    assert torch.equal(first, permutation(1000, seed=0, epoch=1))
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, permutation(1000, seed=0, epoch=2))
    assert not torch.equal(first, permutation(1000, seed=1, epoch=1))


def test_later_epochs_learn_from_the_images_with_the_largest_losses(card: ModelCard, digits_data: ArrayDataSet) -> None:
    training = start(card, digits_data, FULL)
    steps = training.run()
    losses = {step: training.snapshot().tensors["losses"].clone() for step, _ in enumerate(steps, start=1)}
    assert losses[11].mean().item() == pytest.approx(training.rows[0].train_loss)  # an epoch's are known after it
    assert losses[12].mean().item() == pytest.approx(training.rows[1].train_loss)
    for before, after in ((12, 15), (15, 18)):
        learnt = losses[after] != losses[before]
        assert learnt.sum() == 721  # of 1,442
        assert losses[before][learnt].min() >= losses[before][~learnt].max()
    assert losses[15][losses[15] != losses[12]].mean().item() == pytest.approx(training.rows[2].train_loss)


@pytest.mark.parametrize(
    "change",
    [
        {"translate": 0.0}, {"degrees": 0.0}, {"scale": 0.0}, {"shear": 0.0}, {"label_smoothing": 0.0},
        {"schedule": "constant"}, {"pct_start": 0.5}, {"max_grad_norm": 0.01}, {"weight_decay": 0.1}, {"muon": 0.0},
        {"momentum": 0.5}, {"nesterov": False}, {"lr": 0.05}, {"batch_size": 128}, {"drop_fraction": 0.0},
        {"full_epochs": 1}, {"precision": "bf16"}, {"epochs": 5},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_the_recipe_says_changes_the_weights(
    card: ModelCard, digits_data: ArrayDataSet, change: dict[str, Any]
) -> None:
    few = first_images(digits_data, 300)
    recipe = replace(FULL, precision="fp32")
    one, other = (finished(start(card, few, each)) for each in (recipe, replace(recipe, **change)))
    assert not torch.equal(one.model.get_parameter("net.conv1.weight"), other.model.get_parameter("net.conv1.weight"))


@pytest.mark.parametrize("wanted", [True, False])
def test_kernels_lie_as_the_recipe_says(card: ModelCard, digits_data: ArrayDataSet, wanted: bool) -> None:
    training = start(card, digits_data, replace(FULL, channels_last=wanted))
    kernel = training.model.get_parameter("net.block1.conv1.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last) == wanted


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_same_seed_gives_the_same_bits(card: ModelCard, digits_data: ArrayDataSet, arch: str) -> None:
    card, data, recipe = replace(card, arch=arch), first_images(digits_data, 300), replace(FULL, epochs=1)
    one, again = (finished(start(card, data, recipe)) for _ in range(2))
    assert same_bits(one, again)
    other = finished(start(card, data, recipe, weights=1))
    assert not same_bits(one, other)


@pytest.mark.parametrize(
    ("arch", "precision"),
    [
        ("residual", "fp32"),
        ("residual", "bf16"),
        pytest.param("residual", "fp16", marks=pytest.mark.slow),
        pytest.param("densenet", "auto", marks=pytest.mark.slow),
    ],
)
def test_after_a_pause_anywhere_the_bits_are_those_of_no_pause(
    card: ModelCard, digits_data: ArrayDataSet, arch: str, precision: str
) -> None:
    card = replace(card, arch=arch)
    data = first_images(digits_data, 100)
    recipe = replace(FULL, precision=precision, batch_size=17)
    whole = finished(start(card, data, recipe))
    for paused_at in (1, 6, 14, 15):  # in the first epoch, at its end, in the third, which leaves half out, at its end
        training = start(card, data, recipe)
        for _ in training.run():
            if training.step == paused_at:
                break
        resumed = start(card, data, recipe, weights=99)  # whatever weights it begins with
        snapshot = training.snapshot()
        resumed.restore(snapshot._replace(tensors={name: t.clone() for name, t in snapshot.tensors.items()}))
        assert same_bits(finished(resumed), whole)
        assert [replace(row, seconds=0) for row in resumed.rows] == [replace(row, seconds=0) for row in whole.rows]


@pytest.mark.parametrize("batch_size", [64, 100_000])
def test_a_loss_that_is_not_finite_stops_training_with_step_and_learning_rate(
    card: ModelCard, digits_data: ArrayDataSet, batch_size: int
) -> None:
    """In the midst of an epoch; or, with one step an epoch, when the damage shows only in the test."""
    recipe = replace(recipe_named("baseline"), lr=1e6, epochs=2, batch_size=batch_size)
    with pytest.raises(
        TrainingError, match=r"loss became (nan|inf) at step \d+ of \d+, at a learning rate of 1e\+06; lower"
    ):
        finished(start(card, digits_data, recipe))


def test_no_snapshot_is_taken_of_weights_that_are_nan(card: ModelCard, digits_data: ArrayDataSet) -> None:
    training = start(card, digits_data, PLAIN)
    next(training.run())
    with torch.no_grad():
        training.model.get_parameter("net.conv1.weight")[0] = float("nan")
    with pytest.raises(TrainingError, match="a weight became NaN or infinite at step 1 of 46"):
        training.snapshot()


def test_images_decoded_when_they_are_needed_give_the_same_weights(
    card: ModelCard, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    write_sample(digits_data, tmp_path / "digits")
    held, in_files = (
        finished(
            start(card, image_files.load(tmp_path / "digits", Options(), memory=memory), replace(FULL, batch_size=64))
        )
        for memory in (10**9, 0)
    )
    assert same_bits(held, in_files)
    assert [row.test_loss for row in held.rows] == [row.test_loss for row in in_files.rows]
