"""EpochSchedule: the number of images and steps per epoch, and the learning rate of each step."""

import math
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from netkit.nets.training.recipe import Recipe

MIN_STEPS = 500  # enough for all four networks to reach 98.8 % or more on the bundled digits
SMALL_DATA_EPOCHS = 100  # with 140 images, 500 epochs are 2 percentage points better than 120; see docs/any-images.md


class Position(NamedTuple):
    """A position between two steps: the epoch of the next step, from 1, and the number of its steps so far."""

    epoch: int
    steps: int


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Split `images` into batches. A last batch of one image joins the batch before it.

    Batch norm cannot train on a single image if its input is (N, C) or (N, C, 1, 1).
    """
    sizes = [batch_size] * (images // batch_size)
    rest = images % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


class EpochSchedule:
    """The schedule of `recipe` on `images` training images. Steps are counted from 1 over the whole training."""

    def __init__(self, recipe: Recipe, images: int) -> None:
        self._recipe = recipe
        self._images = [recipe.images_in(epoch, images) for epoch in range(1, math.ceil(recipe.epochs) + 1)]
        self._last_steps = list(accumulate(len(batch_sizes(count, recipe.batch_size)) for count in self._images))

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self._last_steps[-1]

    @property
    def images(self) -> int:
        """Number of images of all epochs; an image counts once in each epoch that trains on it."""
        return sum(self._images)

    def images_in(self, epoch: int) -> int:
        """Return the number of images of the epoch."""
        return self._images[epoch - 1]

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the step."""
        return self._recipe.lr_at(step - 1, self.steps)

    def ends_epoch(self, step: int) -> bool:
        """Return whether the step is the last one of its epoch."""
        return step in self._last_steps

    def position(self, steps: int) -> Position:
        """Return the position after `steps` steps."""
        epochs = bisect_right(self._last_steps, steps)
        return Position(epochs + 1, steps - (self._last_steps[epochs - 1] if epochs else 0))

    def images_after(self, steps: int) -> int:
        """Return the number of images in the first `steps` steps."""
        epoch, steps_before = self.position(steps)
        partial = min(steps_before * self._recipe.batch_size, self.images_in(epoch)) if steps_before else 0
        return sum(self._images[: epoch - 1]) + partial


def with_min_steps(recipe: Recipe, images: int) -> tuple[Recipe, str]:
    """Return `recipe`, with more epochs if `images` training images would give fewer than MIN_STEPS steps.

    These are at most SMALL_DATA_EPOCHS epochs. The second value is the reason as text, empty if the recipe is the same.
    """
    steps = EpochSchedule(recipe, images).steps
    longer = EpochSchedule(replace(recipe, epochs=SMALL_DATA_EPOCHS), images)
    epochs = min(longer.position(MIN_STEPS - 1).epoch, SMALL_DATA_EPOCHS)
    if steps >= MIN_STEPS or epochs <= recipe.epochs:
        return recipe, ""
    chosen = replace(recipe, epochs=epochs)
    chosen_steps = EpochSchedule(chosen, images).steps
    note = (
        f"{images:,} training images: training {epochs} epochs ({chosen_steps:,} steps), because the "
        f"recipe's {recipe.epochs:g} epochs have only {steps:,} steps{_skipping(recipe)}; --epochs changes it"
    )
    return chosen, note


def _skipping(recipe: Recipe) -> str:
    return f" (most epochs skip {recipe.drop_fraction:.0%} of the images)" if recipe.drop_fraction else ""
