"""Sampling: the images of each epoch, and their order."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from netkit.nets.training.recipe import Recipe


def permutation(count: int, *, seed: int, epoch: int) -> Tensor:
    """Return a permutation (count,) of int64 that depends only on `count`, `seed` and `epoch`."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))


class Sampler:
    """Draws the images of each epoch. After the recipe's full epochs it skips the images with the lowest losses.

    The outcomes of an image, its loss and whether its prediction was correct, are from the last epoch that trained on
    it. The outcomes of the current epoch are stored separately until it ends, so that an epoch that is resumed draws
    the same images.
    """

    def __init__(self, recipe: Recipe, images: int, *, seed: int, device: torch.device) -> None:
        self._recipe, self._seed, self._device = recipe, seed, device
        self._outcomes = torch.full((2, images), math.nan, device=device)  # losses; 1 for correct and 0 for wrong
        self._new_outcomes = self._outcomes.clone()

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the epoch's images in training order, int64 on the device."""
        losses = self._outcomes[0]
        images = len(losses)
        order = permutation(images, seed=self._seed, epoch=epoch).to(self._device)
        candidates = self._recipe.candidates_in(epoch, images)
        if candidates < images:
            hardest = losses.argsort(descending=True, stable=True)[:candidates]
            is_hard = torch.zeros(images, dtype=torch.bool, device=self._device)
            is_hard[hardest] = True
            order = order[is_hard[order]]
        return order[: self._recipe.images_in(epoch, images)]

    def record(self, indices: Tensor, outcomes: Tensor) -> None:
        """Store the outcomes (2, n) of the images `indices` (n,) in the current epoch."""
        self._new_outcomes[:, indices] = outcomes

    def end_epoch(self, order: Tensor) -> tuple[float, float]:
        """Use the outcomes of the epoch that trained on `order` for the next epochs.

        Returns mean loss and accuracy over all images trained on so far.
        """
        self._outcomes[:, order] = self._new_outcomes[:, order]
        loss, accuracy = self._outcomes.double().nanmean(dim=1).tolist()
        return loss, accuracy

    def tensors(self) -> dict[str, Tensor]:
        """Return all state, not copied, for a snapshot."""
        return {"outcomes": self._outcomes, "fresh": self._new_outcomes}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state from the tensors of a snapshot."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
