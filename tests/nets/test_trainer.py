"""The training loop, against a plain PyTorch loop, and against itself after a restore."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

from netkit.core.errors import TrainingError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data import image_files
from netkit.data.dataset import ArrayDataSet, DataSet
from netkit.data.options import Options
from netkit.data.sample import write_sample
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.normalize import FromPixels
from netkit.nets.training.recipe import Recipe, recipe_named
from netkit.nets.training.sampling import permutation
from netkit.nets.training.trainer import Trainer

PLAIN = replace(recipe_named("baseline"), epochs=2)
FULL = replace(recipe_named("fast"), epochs=4, batch_size=256)  # 6 + 6 + 3 + 3 steps on the digits


def create_trainer(card: ModelCard, data: DataSet, recipe: Recipe, *, weights_seed: int = 0) -> Trainer:
    """Create a trainer with seed 3. `weights_seed` is the seed of the initial weights."""
    torch.manual_seed(weights_seed)
    model = FromPixels(build(card), card)
    return Trainer(model, data, recipe=recipe, seed=3, device=torch.device("cpu"))


def run_to_end(trainer: Trainer) -> Trainer:
    list(trainer.run())
    return trainer


def first_images(data: ArrayDataSet, count: int) -> ArrayDataSet:
    """Keep the first `count` training images and test images."""
    return replace(
        data,
        train_images=data.train_images[:count],
        train_labels=data.train_labels[:count],
        test_images=data.test_images[:count],
        test_labels=data.test_labels[:count],
    )


def same_state(one: Trainer, other: Trainer) -> bool:
    a, b = one.snapshot(), other.snapshot()
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors
    )


def test_baseline_recipe_equals_a_plain_loop(card: ModelCard, digits_data: ArrayDataSet) -> None:
    """Plain SGD on float batches that were normalized before, as by torchvision's ToTensor and Normalize."""
    trainer = create_trainer(card, digits_data, PLAIN)
    torch.manual_seed(0)
    plain = build(card)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.5)
    images = (torch.from_numpy(digits_data.train_images).float() / 255 - card.mean[0]) / card.std[0]
    labels = torch.from_numpy(digits_data.train_labels)
    losses = []
    for epoch in (1, 2):
        for indices in permutation(len(labels), seed=3, epoch=epoch).split(64):
            loss = F.cross_entropy(plain(images[indices]), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(indices))
    metrics = run_to_end(trainer).rows
    for weight, expected in zip(trainer.result.net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-5)
    assert [row.step for row in metrics] == [23, 46]
    assert sum(row.train_loss for row in metrics) == pytest.approx(sum(losses) / len(labels), rel=1e-4)
    assert {row.lr for row in metrics} == {0.01}


def test_test_metrics_are_those_of_the_averaged_weights_after_the_epoch(
    card: ModelCard, digits_data: ArrayDataSet
) -> None:
    trainer = run_to_end(create_trainer(card, digits_data, replace(FULL, epochs=6, ema=0.9)))
    with torch.no_grad():
        logits = trainer.result.eval()(torch.from_numpy(digits_data.test_images))
    last = trainer.rows[-1]
    correct = (logits.argmax(1).numpy() == digits_data.test_labels).sum()
    assert last.eval_accuracy == correct / len(digits_data.test_labels) > 0.5
    labels = torch.from_numpy(digits_data.test_labels)
    assert last.eval_loss == pytest.approx(nn.CrossEntropyLoss()(logits, labels).item(), rel=1e-5)
    assert [row.epoch for row in trainer.rows] == [1, 2, 3, 4, 5, 6]
    assert last.train_loss < trainer.rows[0].train_loss


def test_weights_are_averaged_exponentially(card: ModelCard, digits_data: ArrayDataSet) -> None:
    trainer = create_trainer(card, digits_data, replace(PLAIN, ema=0.75))
    weight = trainer.model.get_parameter("net.linear.bias")
    expected = None
    for _ in islice(trainer.run(), 10):
        current = weight.detach().clone()
        expected = current if expected is None else 0.75 * expected + 0.25 * current
    assert expected is not None
    torch.testing.assert_close(trainer.result.get_parameter("net.linear.bias"), expected)
    assert not torch.equal(trainer.result.get_parameter("net.linear.bias"), weight)


def test_step_metrics_contain_the_epoch_and_a_finite_loss(card: ModelCard, digits_data: ArrayDataSet) -> None:
    trainer = create_trainer(card, digits_data, FULL)
    steps = [metrics for metrics in trainer.run() if metrics]
    assert [metrics.epoch for metrics in steps] == [1] * 6 + [2] * 6 + [3] * 3 + [4] * 3
    assert all(math.isfinite(metrics.loss) for metrics in steps)


def test_order_is_a_permutation_that_depends_only_on_seed_and_epoch() -> None:
    first = permutation(1000, seed=0, epoch=1)
    torch.rand(5)
    np.random.rand(5)
    assert torch.equal(first, permutation(1000, seed=0, epoch=1))
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, permutation(1000, seed=0, epoch=2))
    assert not torch.equal(first, permutation(1000, seed=1, epoch=1))


def test_later_epochs_train_on_the_images_with_the_largest_losses(card: ModelCard, digits_data: ArrayDataSet) -> None:
    trainer = create_trainer(card, digits_data, FULL)
    steps = trainer.run()
    outcomes = {step: trainer.snapshot().tensors["outcomes"].clone() for step, _ in enumerate(steps, start=1)}
    losses = {step: losses for step, (losses, _) in outcomes.items()}
    assert losses[11].mean().item() == pytest.approx(trainer.rows[0].train_loss)  # stored after the epoch
    assert losses[12].mean().item() == pytest.approx(trainer.rows[1].train_loss)
    for before, after in ((12, 15), (15, 18)):
        trained = losses[after] != losses[before]
        assert trained.sum() == 721  # half of 1,442
        assert losses[before][trained].min() >= losses[before][~trained].max()


def test_training_accuracy_is_that_of_all_images_also_if_an_epoch_skips_the_easy_ones(
    card: ModelCard, digits_data: ArrayDataSet
) -> None:
    trainer = create_trainer(card, digits_data, replace(FULL, epochs=12))
    outcomes = [trainer.snapshot().tensors["outcomes"].clone() for _ in trainer.run()]
    _, before, after = (outcomes[step - 1] for step in (6, 12, 15))  # the last steps of the first three epochs
    trained = (after != before).any(dim=0)
    assert trained.sum() <= 721  # half of the images
    assert after[1, trained].mean() + 0.1 < after[1].mean()  # the figure of the hard half would be too low
    row = trainer.rows[2]
    assert (row.train_loss, row.train_accuracy) == pytest.approx(tuple(after.double().mean(dim=1).tolist()))


def test_training_accuracy_of_half_an_epoch_is_that_of_the_images_trained_on(
    card: ModelCard, digits_data: ArrayDataSet
) -> None:
    trainer = run_to_end(create_trainer(card, digits_data, replace(PLAIN, epochs=0.5)))
    losses, correct = trainer.snapshot().tensors["outcomes"]
    trained = ~losses.isnan()
    assert trained.sum() == 721
    assert trainer.rows[0].train_accuracy == pytest.approx(correct[trained].mean().item())


class PooledNet(nn.Module):
    """A network with batch norm on an input of one pixel, as in most torchvision classifiers on small images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten())
        self.linear = nn.Linear(1, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x))


def test_last_image_of_an_epoch_trains_with_the_batch_before_it(card: ModelCard, digits_data: ArrayDataSet) -> None:
    recipe = replace(PLAIN, batch_size=10)
    data = first_images(digits_data, 31)
    trainer = Trainer(FromPixels(PooledNet(), card), data, recipe=recipe, seed=3, device=torch.device("cpu"))
    sizes: list[int] = []
    trainer.model.net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    run_to_end(trainer)
    assert sizes == [10, 10, 11, 31] * 2  # 31 test images after each epoch
    assert [row.step for row in trainer.rows] == [3, 6]


def test_balanced_loss_has_scikit_learns_class_weights(card: ModelCard, digits_data: ArrayDataSet) -> None:
    labels = digits_data.train_labels
    kept = np.flatnonzero((labels != 3) | (np.arange(len(labels)) % 4 == 0))[:200]  # few images of class 3
    images, labels = digits_data.train_images[kept], labels[kept]
    data = replace(digits_data, train_images=images, train_labels=labels)
    trainer = create_trainer(card, data, replace(PLAIN, batch_size=200, epochs=1, balanced=True))
    torch.manual_seed(0)
    plain = FromPixels(build(card), card)
    weights = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    logits = plain(torch.from_numpy(images))
    losses = F.cross_entropy(logits, torch.from_numpy(labels), torch.from_numpy(weights).float(), reduction="sum")
    (losses / 200).backward()
    torch.optim.SGD(plain.parameters(), lr=0.01).step()
    run_to_end(trainer)
    for ours, theirs in zip(trainer.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    unweighted = F.cross_entropy(logits, torch.from_numpy(labels)).item()
    assert trainer.rows[0].train_loss == pytest.approx(unweighted, rel=1e-4)


def test_frozen_network_changes_only_in_its_last_layer(card: ModelCard, digits_data: ArrayDataSet) -> None:
    data, recipe = first_images(digits_data, 100), replace(FULL, batch_size=20, freeze=True)
    trainer = Trainer(FromPixels(PooledNet(), card), data, recipe=recipe, seed=3, device=torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    run_to_end(trainer)
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"net.linear.weight", "net.linear.bias"}  # not the mean and variance of batch norm
    momenta = {name for name in trainer.snapshot().tensors if name.startswith("momentum.")}
    assert momenta == {f"momentum.{name}" for name in changed}


def with_wrong_validation_labels(data: ArrayDataSet) -> ArrayDataSet:
    """Add validation images with wrong labels: as the training improves, their accuracy falls to 0."""
    return replace(data, val_images=data.test_images, val_labels=(data.test_labels + 1) % 10)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_of_the_best_epoch_are_the_result(card: ModelCard, digits_data: ArrayDataSet, ema: float) -> None:
    data = with_wrong_validation_labels(first_images(digits_data, 200))
    trainer = create_trainer(card, data, replace(FULL, epochs=10, ema=ema, batch_size=50, precision="fp32"))
    weights: list[dict[str, torch.Tensor]] = []
    for _ in trainer.run():
        if trainer.schedule.ends_epoch(trainer.step):
            weights.append({name: tensor.clone() for name, tensor in trainer.result.state_dict().items()})
    accuracies = [row.eval_accuracy for row in trainer.rows]
    best = min((row for row in trainer.rows if row.eval_accuracy == max(accuracies)), key=lambda row: row.eval_loss)
    assert best.epoch < 10
    test_accuracy = trainer.finish()
    result = trainer.result.state_dict()
    assert all(torch.equal(result[name], tensor) for name, tensor in weights[best.epoch - 1].items())
    with torch.no_grad():
        predictions = trainer.result.eval()(torch.from_numpy(data.test_images)).argmax(dim=1).numpy()
    assert test_accuracy == (predictions == data.test_labels).mean()


def test_training_ends_after_the_patience_and_continues_identically_when_restored(
    card: ModelCard, digits_data: ArrayDataSet
) -> None:
    data = with_wrong_validation_labels(first_images(digits_data, 200))
    recipe = replace(FULL.with_augmentation("photos"), epochs=60, batch_size=50, patience=3)
    uninterrupted = run_to_end(create_trainer(card, data, recipe))
    accuracies = [row.eval_accuracy for row in uninterrupted.rows]
    best = max(range(len(accuracies)), key=lambda epoch: (accuracies[epoch], -uninterrupted.rows[epoch].eval_loss))
    assert uninterrupted.done and len(accuracies) == best + 1 + 3 < 60
    steps = uninterrupted.step
    for stop_step in (3, steps // 2, steps - 1, steps):
        trainer = create_trainer(card, data, recipe)
        next(step for step in trainer.run() if trainer.step == stop_step)
        resumed = create_trainer(card, data, recipe, weights_seed=99)
        snapshot = trainer.snapshot()
        resumed.restore(snapshot._replace(tensors={name: t.clone() for name, t in snapshot.tensors.items()}))
        assert same_state(run_to_end(resumed), uninterrupted)
        assert resumed.finish() == run_to_end(create_trainer(card, data, recipe)).finish()


def test_single_training_image_raises_an_error_that_names_the_fix(card: ModelCard, digits_data: ArrayDataSet) -> None:
    data = first_images(digits_data, 1)
    trainer = Trainer(FromPixels(PooledNet(), card), data, recipe=PLAIN, seed=3, device=torch.device("cpu"))
    with pytest.raises(UsageError, match="cannot train on a batch of one image; add training images, or pass a larger"):
        run_to_end(trainer)


@pytest.mark.parametrize(
    "change",
    [
        {"translate": 0.0}, {"degrees": 0.0}, {"scale": 0.0}, {"shear": 0.0}, {"label_smoothing": 0.0},
        {"schedule": "constant"}, {"pct_start": 0.5}, {"max_grad_norm": 0.01}, {"weight_decay": 0.1}, {"muon": 0.0},
        {"momentum": 0.5}, {"nesterov": False}, {"lr": 0.05}, {"batch_size": 128}, {"drop_fraction": 0.0},
        {"full_epochs": 1}, {"precision": "bf16"}, {"epochs": 5},
        {"crop": 0.5}, {"flip": True}, {"jitter": 0.3}, {"balanced": True}, {"freeze": True},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_hyperparameter_changes_the_weights(
    card: ModelCard, digits_data: ArrayDataSet, change: dict[str, Any]
) -> None:
    data = first_images(digits_data, 300)
    recipe = replace(FULL, precision="fp32")
    one, other = (run_to_end(create_trainer(card, data, r)) for r in (recipe, replace(recipe, **change)))
    assert not torch.equal(one.model.get_parameter("net.linear.weight"), other.model.get_parameter("net.linear.weight"))


@pytest.mark.parametrize("channels_last", [True, False])
def test_kernels_have_the_recipes_memory_format(
    card: ModelCard, digits_data: ArrayDataSet, channels_last: bool
) -> None:
    trainer = create_trainer(card, digits_data, replace(FULL, channels_last=channels_last))
    kernel = trainer.model.get_parameter("net.block1.conv1.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_same_seed_gives_identical_state(card: ModelCard, digits_data: ArrayDataSet, arch: str) -> None:
    card, data, recipe = replace(card, arch=arch), first_images(digits_data, 300), replace(FULL, epochs=1)
    one, again = (run_to_end(create_trainer(card, data, recipe)) for _ in range(2))
    assert same_state(one, again)
    other = run_to_end(create_trainer(card, data, recipe, weights_seed=1))
    assert not same_state(one, other)


@pytest.mark.parametrize(
    ("arch", "precision"),
    [
        ("residual", "fp32"),
        ("residual", "bf16"),
        pytest.param("residual", "fp16", marks=pytest.mark.slow),
        pytest.param("densenet", "auto", marks=pytest.mark.slow),
    ],
)
def test_restored_training_continues_with_identical_state(
    card: ModelCard, digits_data: ArrayDataSet, arch: str, precision: str
) -> None:
    card = replace(card, arch=arch)
    data = first_images(digits_data, 100)
    recipe = replace(FULL, precision=precision, batch_size=17)
    uninterrupted = run_to_end(create_trainer(card, data, recipe))
    for stop_step in (1, 6, 14, 15):  # in and after epoch 1, and epoch 3, which skips half
        trainer = create_trainer(card, data, recipe)
        for _ in trainer.run():
            if trainer.step == stop_step:
                break
        resumed = create_trainer(card, data, recipe, weights_seed=99)  # its initial weights do not matter
        snapshot = trainer.snapshot()
        resumed.restore(snapshot._replace(tensors={name: t.clone() for name, t in snapshot.tensors.items()}))
        assert same_state(run_to_end(resumed), uninterrupted)
        assert [replace(row, seconds=0) for row in resumed.rows] == [
            replace(row, seconds=0) for row in uninterrupted.rows
        ]


@pytest.mark.parametrize("batch_size", [64, 100_000])
def test_nan_or_infinite_loss_raises_with_step_and_learning_rate(
    card: ModelCard, digits_data: ArrayDataSet, batch_size: int
) -> None:
    """With one step per epoch, the loss becomes NaN or infinite only in the evaluation."""
    recipe = replace(recipe_named("baseline"), lr=1e6, epochs=2, batch_size=batch_size)
    with pytest.raises(
        TrainingError, match=r"loss became (nan|inf) at step \d+ of \d+, at a learning rate of 1e\+06; lower"
    ):
        run_to_end(create_trainer(card, digits_data, recipe))


def test_snapshot_of_nan_weights_raises(card: ModelCard, digits_data: ArrayDataSet) -> None:
    trainer = create_trainer(card, digits_data, PLAIN)
    next(trainer.run())
    with torch.no_grad():
        trainer.model.get_parameter("net.conv1.weight")[0] = float("nan")
    with pytest.raises(TrainingError, match="a weight became NaN or infinite at step 1 of 46"):
        trainer.snapshot()


def test_lazily_decoded_images_give_identical_weights(
    card: ModelCard, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    write_sample(digits_data, tmp_path / "digits")
    in_memory, lazy = (
        run_to_end(
            create_trainer(
                card,
                image_files.load(tmp_path / "digits", Options(), max_memory_bytes=memory),
                replace(FULL, batch_size=64),
            )
        )
        for memory in (10**9, 0)
    )
    assert same_state(in_memory, lazy)
    assert [row.eval_loss for row in in_memory.rows] == [row.eval_loss for row in lazy.rows]
