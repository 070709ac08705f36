"""EpochSchedule, against counting batch by batch."""

from dataclasses import replace

import pytest

from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.schedule import EpochSchedule, batch_sizes, with_min_steps


@pytest.mark.parametrize(
    ("images", "batch_size", "drop_fraction", "images_in_epochs"),
    [
        (1000, 128, 0.0, [1000] * 5),
        (1000, 128, 0.3, [1000, 1000, 700, 700, 700]),
        (1001, 100, 0.5, [1001, 1001, 501, 501, 501]),
        (3, 4, 0.9, [3, 3, 2, 2, 2]),  # never a single image
        (1, 4, 0.9, [1, 1, 1, 1, 1]),
        (21, 10, 0.5, [21, 21, 11, 11, 11]),
        (5, 1, 0.5, [5, 5, 3, 3, 3]),
    ],
)
def test_every_step_has_its_position_in_an_epoch(
    images: int, batch_size: int, drop_fraction: float, images_in_epochs: list[int]
) -> None:
    recipe = replace(recipe_named("fast"), epochs=5, batch_size=batch_size, drop_fraction=drop_fraction)
    schedule = EpochSchedule(recipe, images)
    steps = images_before = 0
    for epoch, count in enumerate(images_in_epochs, start=1):
        assert schedule.images_in(epoch) == count
        starts = [start for start in range(0, count, batch_size) if start == 0 or start < count - 1 or batch_size == 1]
        for steps_before, start in enumerate(starts):
            assert schedule.position(steps) == (epoch, steps_before)
            assert schedule.images_after(steps) == images_before + start
            assert schedule.ends_epoch(steps) == (steps_before == 0 and steps > 0)
            steps += 1
        images_before += count
    assert (schedule.steps, schedule.images) == (steps, images_before) == (steps, schedule.images_after(steps))
    assert schedule.ends_epoch(steps)


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(20, 10, [10, 10]), (22, 10, [10, 10, 2]), (21, 10, [10, 11]), (1, 10, [1]), (11, 10, [11]), (3, 1, [1, 1, 1])],
)
def test_last_batch_of_one_image_joins_the_batch_before_it(images: int, batch_size: int, sizes: list[int]) -> None:
    assert batch_sizes(images, batch_size) == sizes


@pytest.mark.parametrize(("images", "epochs"), [(60_000, 8), (10_000, 11), (1_442, 82)])
def test_small_data_sets_get_enough_epochs_for_500_steps(images: int, epochs: int) -> None:
    recipe, _ = with_min_steps(recipe_named("fast"), images)
    assert recipe.epochs == epochs
    steps = [-(-recipe.images_in(epoch, images) // recipe.batch_size) for epoch in range(1, epochs + 1)]
    assert sum(steps) >= 500
    assert sum(steps[:-1]) < 500 or epochs == recipe_named("fast").epochs


@pytest.mark.parametrize(("images", "steps"), [(288, 18), (2, 8)])
def test_few_images_get_at_most_100_epochs_with_a_reason(images: int, steps: int) -> None:
    recipe, note = with_min_steps(recipe_named("fast"), images)
    assert recipe.epochs == 100
    assert note == (
        f"{images} training images: training 100 epochs ({EpochSchedule(recipe, images).steps} steps), because the "
        f"recipe's 8 epochs have only {steps} steps (most epochs skip 50% of the images); --epochs changes it"
    )
    assert "skip" not in with_min_steps(recipe_named("baseline"), images)[1]


@pytest.mark.parametrize(("images", "epochs"), [(60_000, 8), (10, 200)])
def test_recipe_with_enough_steps_or_more_epochs_stays_the_same(images: int, epochs: int) -> None:
    recipe = replace(recipe_named("fast"), epochs=epochs)
    assert with_min_steps(recipe, images) == (recipe, "")
