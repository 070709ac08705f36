"""Recipes: their values, the schedule, augmentation, and invalid values."""

from dataclasses import replace
from itertools import pairwise

import pytest

from netkit.core.errors import UsageError
from netkit.nets.build import ARCHITECTURES
from netkit.nets.training.recipe import RECIPES, recipe_named


def test_baseline_is_plain_sgd() -> None:
    recipe = recipe_named("baseline")
    assert (recipe.lr, recipe.momentum, recipe.batch_size, recipe.epochs) == (0.01, 0.5, 64, 10)
    assert (recipe.schedule, recipe.precision, recipe.weight_decay, recipe.label_smoothing) == (
        "constant",
        "fp32",
        0,
        0,
    )


def test_fast_is_adjusted_to_the_network_and_baseline_is_not() -> None:
    fast, residual = recipe_named("fast"), recipe_named("fast", arch="residual")
    assert (residual.epochs, residual.translate) == (8, 1.0)
    assert replace(residual, translate=fast.translate) == fast
    assert recipe_named("fast", arch="densenet") == replace(fast, drop_fraction=0.55)
    assert recipe_named("baseline", arch="residual") == recipe_named("baseline")


def test_seed_is_an_alias_of_baseline() -> None:
    assert recipe_named("seed") == recipe_named("baseline")


def test_recipes_are_found_by_name() -> None:
    assert all(recipe_named(name).name == name for name in RECIPES)
    assert all(recipe_named(name, arch=arch).name == name for name in RECIPES for arch in ARCHITECTURES)
    with pytest.raises(UsageError, match="unknown recipe 'Basline': did you mean 'baseline'"):
        recipe_named("Basline")


@pytest.mark.parametrize(("full_epochs", "counts"), [(1, [1000, 750, 750, 750]), (2, [1000, 1000, 750, 750])])
def test_first_epochs_are_full_and_later_ones_skip_images(full_epochs: int, counts: list[int]) -> None:
    recipe = replace(recipe_named("fast"), drop_fraction=0.25, full_epochs=full_epochs, epochs=12)
    assert [recipe.images_in(epoch, 1000) for epoch in (1, 2, 3, 12)] == counts


@pytest.mark.parametrize(
    ("epochs", "counts"),
    [(0.5, [500]), (1.25, [1000, 250]), (2.5, [1000, 1000, 375]), (1e-9, [2]), (3.0, [1000, 1000, 750])],
)
def test_last_epoch_can_be_partial(epochs: float, counts: list[int]) -> None:
    recipe = replace(recipe_named("fast"), drop_fraction=0.25, epochs=epochs)
    assert [recipe.images_in(epoch, 1000) for epoch in range(1, len(counts) + 1)] == counts


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "--epochs 0: must be above 0 and at most 100,000"),
        ("epochs", float("nan"), "--epochs nan: must be above 0 and at most 100,000"),
        ("epochs", float("inf"), "--epochs inf: must be above 0 and at most 100,000"),
        ("batch_size", 0, "--batch-size 0: must be at least 1"),
        ("lr", 0.0, "--lr 0: must be above 0 and at most 1,000,000"),
        ("lr", -0.1, "--lr -0.1: must be above 0 and at most 1,000,000"),
        ("lr", float("nan"), "--lr nan: must be above 0 and at most 1,000,000"),
        ("lr", float("inf"), "--lr inf: must be above 0 and at most 1,000,000"),
        ("ema", 1.0, "--ema 1: must be at least 0 and below 1"),
        ("label_smoothing", -0.1, "label_smoothing -0.1: must be at least 0 and below 1"),
        ("drop_fraction", 1.0, "drop_fraction 1: must be at least 0 and below 1"),
        ("crop", 1.0, "crop 1: must be at least 0 and below 1"),
        ("patience", -1, "--patience -1: must be at least 0"),
        ("full_epochs", 0, "drop_fraction requires full_epochs of at least 1"),
        ("schedule", "onecicle", "unknown schedule 'onecicle': did you mean 'onecycle'"),
        ("precision", "fp23", "unknown precision 'fp23': did you mean 'fp32'"),
    ],
)
def test_invalid_values_are_rejected(field: str, value: float | str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(recipe_named("fast"), **{field: value})  # type: ignore[arg-type]  # a field of that type


def test_onecycle_rises_and_falls_linearly() -> None:
    recipe = replace(recipe_named("fast"), lr=0.4, pct_start=0.25)
    lrs = [recipe.lr_at(step, 1000) for step in range(1000)]
    assert max(lrs) == pytest.approx(0.4, rel=0.01) and 248 <= lrs.index(max(lrs)) <= 252
    assert lrs[0] == pytest.approx(0.4 / 251) and lrs[-1] == pytest.approx(0.4 / 750)
    differences = [after - before for before, after in pairwise(lrs)]
    assert all(difference == pytest.approx(0.4 / 251) for difference in differences[:248])
    assert all(difference == pytest.approx(-0.4 / 750) for difference in differences[252:])


def test_constant_schedule_keeps_the_learning_rate() -> None:
    assert {recipe_named("baseline").lr_at(step, 100) for step in range(100)} == {0.01}


def test_text_lists_the_enabled_settings() -> None:
    assert str(recipe_named("baseline")) == (
        "baseline: epochs 10, batch size 64, lr 0.01, momentum 0.5, schedule constant, precision fp32"
    )


def test_augmentations_replace_each_other() -> None:
    fast = recipe_named("fast", arch="residual")
    assert fast.with_augmentation("digits") == fast
    photos = fast.with_augmentation("photos")
    assert (photos.translate, photos.degrees, photos.flip) == (0, 0, True) and photos.crop and photos.jitter
    assert photos.with_augmentation("none") == fast.with_augmentation("none")
    assert recipe_named("baseline").with_augmentation("none") == recipe_named("baseline")
    assert recipe_named("baseline").with_augmentation("digits").degrees == fast.degrees
    with pytest.raises(UsageError, match="unknown augmentation 'photo': did you mean 'photos'"):
        fast.with_augmentation("photo")
