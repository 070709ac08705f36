"""Recipes: the textbook's numbers, enough steps for small data, and no impossible values."""

from dataclasses import replace

import pytest

from nets.errors import UsageError
from nets.training.recipe import RECIPES, recipe_named


def test_seed_is_what_the_textbook_does() -> None:
    recipe = recipe_named("seed")
    assert (recipe.lr, recipe.momentum, recipe.batch_size, recipe.epochs) == (0.01, 0.5, 64, 10)
    assert (recipe.schedule, recipe.precision, recipe.weight_decay, recipe.label_smoothing) == (
        "constant",
        "fp32",
        0,
        0,
    )


def test_names_are_those_of_the_recipes() -> None:
    assert all(recipe_named(name).name == name for name in RECIPES)
    with pytest.raises(UsageError, match="unknown recipe 'Sead': did you mean 'seed'"):
        recipe_named("Sead")


@pytest.mark.parametrize(
    ("images", "epochs"), [(60_000, 4), (15_872, 5), (15_873, 4), (1_442, 42), (128, 500), (1, 500)]
)
def test_small_data_sets_get_epochs_enough_for_500_steps(images: int, epochs: int) -> None:
    recipe = recipe_named("fast").stretched_to(images)
    assert recipe.epochs == epochs
    assert recipe.epochs * -(-images // recipe.batch_size) >= 500


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("epochs", 0, "epochs and batch size are at least 1, not 0 and 128"),
        ("batch_size", 0, "epochs and batch size are at least 1"),
        ("lr", 0.0, "the learning rate is a positive number, not 0.0"),
        ("lr", -0.1, "the learning rate is a positive number"),
        ("lr", float("nan"), "the learning rate is a positive number, not nan"),
        ("lr", float("inf"), "the learning rate is a positive number, not inf"),
    ],
)
def test_impossible_values_are_refused(field: str, value: float, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(recipe_named("fast"), **{field: value})  # type: ignore[arg-type]  # a field of that type
