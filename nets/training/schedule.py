"""EpochSchedule: the images, steps and learning rates of a recipe on a data set."""

import math
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from netkit.nets.training.recipe import Recipe


class Position(NamedTuple):
    """A point between two steps: the epoch of the next step, from 1, and the steps of that epoch before it."""

    epoch: int
    steps: int


class EpochSchedule:
    """The schedule of `recipe` on `images` training images. Steps are counted from 1 over the whole training."""

    def __init__(self, recipe: Recipe, images: int) -> None:
        self._recipe = recipe
        self._images = [recipe.images_in(epoch, images) for epoch in range(1, math.ceil(recipe.epochs) + 1)]
        self._last_steps = list(accumulate(-(-count // recipe.batch_size) for count in self._images))

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self._last_steps[-1]

    @property
    def images(self) -> int:
        """Images of all epochs together; an image counts once in each epoch that learns from it."""
        return sum(self._images)

    def images_in(self, epoch: int) -> int:
        """Images that the epoch learns from."""
        return self._images[epoch - 1]

    def lr_at(self, step: int) -> float:
        """The learning rate of the step."""
        return self._recipe.lr_at(step - 1, self.steps)

    def ends_epoch(self, step: int) -> bool:
        """Whether the step is the last one of its epoch."""
        return step in self._last_steps

    def position(self, steps: int) -> Position:
        """The position after that many steps."""
        epochs = bisect_right(self._last_steps, steps)
        return Position(epochs + 1, steps - (self._last_steps[epochs - 1] if epochs else 0))

    def images_after(self, steps: int) -> int:
        """Images learnt from in that many steps."""
        epoch, begun = self.position(steps)
        partial = min(begun * self._recipe.batch_size, self.images_in(epoch)) if begun else 0
        return sum(self._images[: epoch - 1]) + partial
