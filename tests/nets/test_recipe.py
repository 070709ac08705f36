"""Recipes: the numbers of the baseline, enough steps for small data, and no impossible values."""

from dataclasses import replace
from itertools import pairwise

import pytest

from netkit.core.errors import UsageError
from netkit.nets.build import ARCHITECTURES
from netkit.nets.training.recipe import RECIPES, recipe_named


def test_baseline_is_plain_sgd_as_in_textbooks() -> None:
    recipe = recipe_named("baseline")
    assert (recipe.lr, recipe.momentum, recipe.batch_size, recipe.epochs) == (0.01, 0.5, 64, 10)
    assert (recipe.schedule, recipe.precision, recipe.weight_decay, recipe.label_smoothing) == (
        "constant",
        "fp32",
        0,
        0,
    )


def test_fast_is_adjusted_to_the_net_and_baseline_is_not() -> None:
    fast, residual = recipe_named("fast"), recipe_named("fast", arch="residual")
    assert (residual.epochs, residual.translate) == (8, 1.0)
    assert replace(residual, translate=fast.translate) == fast
    assert recipe_named("fast", arch="densenet") == replace(fast, drop_fraction=0.55)
    assert recipe_named("baseline", arch="residual") == recipe_named("baseline")


def test_seed_is_another_name_of_baseline() -> None:
    assert recipe_named("seed") == recipe_named("baseline")


def test_names_are_those_of_the_recipes() -> None:
    assert all(recipe_named(name).name == name for name in RECIPES)
    assert all(recipe_named(name, arch=arch).name == name for name in RECIPES for arch in ARCHITECTURES)
    with pytest.raises(UsageError, match="unknown recipe 'Basline': did you mean 'baseline'"):
        recipe_named("Basline")


@pytest.mark.parametrize(("images", "epochs"), [(60_000, 8), (10_000, 11), (1_442, 82), (128, 500), (1, 500)])
def test_small_data_sets_get_epochs_enough_for_500_steps(images: int, epochs: int) -> None:
    recipe = recipe_named("fast").stretched_to(images)
    assert recipe.epochs == epochs
    steps = [-(-recipe.images_in(epoch, images) // recipe.batch_size) for epoch in range(1, epochs + 1)]
    assert sum(steps) >= 500
    assert sum(steps[:-1]) < 500 or epochs == recipe_named("fast").epochs


@pytest.mark.parametrize(("whole", "counts"), [(1, [1000, 750, 750, 750]), (2, [1000, 1000, 750, 750])])
def test_the_first_epochs_are_whole_and_later_ones_leave_the_easiest_out(whole: int, counts: list[int]) -> None:
    recipe = replace(recipe_named("fast"), drop_fraction=0.25, full_epochs=whole, epochs=12)
    assert [recipe.images_in(epoch, 1000) for epoch in (1, 2, 3, 12)] == counts


@pytest.mark.parametrize(
    ("epochs", "counts"),
    [(0.5, [500]), (1.25, [1000, 250]), (2.5, [1000, 1000, 375]), (1e-9, [1]), (3.0, [1000, 1000, 750])],
)
def test_a_last_epoch_may_be_a_part_of_one(epochs: float, counts: list[int]) -> None:
    recipe = replace(recipe_named("fast"), drop_fraction=0.25, epochs=epochs)
    assert [recipe.images_in(epoch, 1000) for epoch in range(1, len(counts) + 1)] == counts


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("epochs", 0, "epochs are a number above 0 and up to 100,000, not 0"),
        ("epochs", float("nan"), "epochs are a number above 0 and up to 100,000, not nan"),
        ("epochs", float("inf"), "epochs are a number above 0 and up to 100,000, not inf"),
        ("batch_size", 0, "the batch size is at least 1, not 0"),
        ("lr", 0.0, "the learning rate is a positive number up to 1,000,000, not 0.0"),
        ("lr", -0.1, "the learning rate is a positive number"),
        ("lr", float("nan"), "the learning rate is a positive number up to 1,000,000, not nan"),
        ("lr", float("inf"), "the learning rate is a positive number up to 1,000,000, not inf"),
        ("ema", 1.0, "ema must be at least 0 and below 1, not 1.0"),
        ("label_smoothing", -0.1, "label_smoothing must be at least 0 and below 1, not -0.1"),
        ("drop_fraction", 1.0, "drop_fraction must be at least 0 and below 1, not 1.0"),
        ("full_epochs", 0, "drop_fraction needs full_epochs of 1 or more"),
        ("schedule", "onecicle", "unknown schedule 'onecicle': did you mean 'onecycle'"),
        ("precision", "fp23", "unknown precision 'fp23': did you mean 'fp32'"),
    ],
)
def test_impossible_values_are_refused(field: str, value: float | str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(recipe_named("fast"), **{field: value})  # type: ignore[arg-type]  # a field of that type


def test_onecycle_rises_in_a_straight_line_to_its_peak_and_falls_to_nothing() -> None:
    recipe = replace(recipe_named("fast"), lr=0.4, pct_start=0.25)
    rates = [recipe.lr_at(step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(0.4, rel=0.01) and 248 <= rates.index(max(rates)) <= 252
    assert rates[0] == pytest.approx(0.4 / 251) and rates[-1] == pytest.approx(0.4 / 750)
    rises = [after - before for before, after in pairwise(rates)]
    assert all(rise == pytest.approx(0.4 / 251) for rise in rises[:248])
    assert all(rise == pytest.approx(-0.4 / 750) for rise in rises[252:])


def test_a_constant_rate_stays() -> None:
    assert {recipe_named("baseline").lr_at(step, 100) for step in range(100)} == {0.01}


def test_people_read_what_is_not_off() -> None:
    assert str(recipe_named("baseline")) == (
        "baseline: epochs 10, batch size 64, lr 0.01, momentum 0.5, schedule constant, precision fp32"
    )
