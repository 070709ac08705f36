"""Sampling: the images of each epoch, and their order."""

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

    The loss of an image is from the last epoch that trained on it. The losses of the current epoch are stored
    separately until it ends, so that an epoch that is resumed draws the same images.
    """

    def __init__(self, recipe: Recipe, images: int, *, seed: int, device: torch.device) -> None:
        self._recipe, self._seed, self._device = recipe, seed, device
        self._losses, self._new_losses = torch.zeros(2, images, device=device)

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the epoch's images in training order, int64 on the device."""
        images = len(self._losses)
        order = permutation(images, seed=self._seed, epoch=epoch).to(self._device)
        candidates = self._recipe.candidates_in(epoch, images)
        if candidates < images:
            hardest = self._losses.argsort(descending=True, stable=True)[:candidates]
            is_hard = torch.zeros(images, dtype=torch.bool, device=self._device)
            is_hard[hardest] = True
            order = order[is_hard[order]]
        return order[: self._recipe.images_in(epoch, images)]

    def record(self, indices: Tensor, losses: Tensor) -> None:
        """Store the losses (n,) of the images `indices` (n,) in the current epoch."""
        self._new_losses[indices] = losses

    def end_epoch(self, order: Tensor) -> None:
        """Use the losses of the epoch that trained on `order` for the next epochs."""
        self._losses[order] = self._new_losses[order]
        self._new_losses.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Return all state, not copied, for a snapshot."""
        return {"losses": self._losses, "fresh": self._new_losses}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state from the tensors of a snapshot."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
