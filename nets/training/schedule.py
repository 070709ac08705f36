"""Timetable: how many images and steps each epoch of a recipe has, and where in them a training stands."""

import math
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from netkit.nets.training.recipe import Recipe


class Place(NamedTuple):
    """Between two steps: in which epoch the next step lies, from 1 on, and how many of its steps lie before it."""

    epoch: int
    steps: int


class Timetable:
    """That of `recipe` on so many training images. Steps are counted from the start of the training."""

    def __init__(self, recipe: Recipe, images: int) -> None:
        self._batch_size = recipe.batch_size
        self._images = [recipe.images_in(epoch, images) for epoch in range(1, math.ceil(recipe.epochs) + 1)]
        self._ends = list(accumulate(-(-count // recipe.batch_size) for count in self._images))

    @property
    def steps(self) -> int:
        return self._ends[-1]

    @property
    def images(self) -> int:
        """Of all epochs together, each image as often as it is learnt from."""
        return sum(self._images)

    def images_in(self, epoch: int) -> int:
        return self._images[epoch - 1]

    def ends_an_epoch(self, step: int) -> bool:
        """Whether step number `step`, from 1 on, is the last of its epoch."""
        return step in self._ends

    def place(self, steps: int) -> Place:
        """Where a training is after that many steps."""
        epochs = bisect_right(self._ends, steps)
        return Place(epochs + 1, steps - (self._ends[epochs - 1] if epochs else 0))

    def images_after(self, steps: int) -> int:
        """How many images were learnt from in that many steps."""
        epoch, begun = self.place(steps)
        here = min(begun * self._batch_size, self.images_in(epoch)) if begun else 0
        return sum(self._images[: epoch - 1]) + here
