"""The optimizer: SGD, and Muon for the kernels of convolutions where the recipe says so."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from netkit.nets.training.muon import Muon
from netkit.nets.training.recipe import Recipe


class Optimizer:
    """Steps of a model's weights, as a recipe says. `scaled` is for float16, whose gradients are scaled up before."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, device: torch.device, scaled: bool) -> None:
        self._largest_gradient = recipe.largest_gradient
        self._weights = dict(model.named_parameters())
        kernels = [weight for weight in self._weights.values() if recipe.muon and weight.ndim == 4]
        rest = [weight for weight in self._weights.values() if not (recipe.muon and weight.ndim == 4)]
        lr, momentum, nesterov = recipe.lr, recipe.momentum, recipe.nesterov
        sgd = SGD(rest, lr, momentum, weight_decay=recipe.weight_decay, nesterov=nesterov, fused=True)
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [(sgd, 1.0)]  # each with its multiple of the rate
        if kernels:
            self._parts.append((Muon(kernels, lr, momentum, nesterov=nesterov), recipe.muon))
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def step(self, loss: Tensor, *, lr: float) -> None:
        """Make the weights' loss a little smaller, at that learning rate."""
        for optimizer, multiple in self._parts:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = lr * multiple
        self._scaler.scale(loss).backward()
        for optimizer, _ in self._parts:
            self._scaler.unscale_(optimizer)
        if self._scaler.is_enabled():  # whose weights have such gradients is noted; the others' are clipped with them
            for weight in self._weights.values():
                if weight.grad is not None:
                    weight.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        if self._largest_gradient:
            clip_grad_norm_(self._weights.values(), self._largest_gradient)
        for optimizer, _ in self._parts:
            self._scaler.step(optimizer)
        self._scaler.update()

    def momenta(self) -> dict[str, Tensor]:
        """The momentum of each weight, by its name; empty before the first step. Tensors are those in use."""
        known = {weight: state for optimizer, _ in self._parts for weight, state in optimizer.state.items()}
        states = {name: known.get(weight, {}) for name, weight in self._weights.items()}
        return {name: state["momentum_buffer"] for name, state in states.items() if "momentum_buffer" in state}

    def scaling(self) -> dict[str, Any]:
        """The state of float16's loss scaling, empty in other precisions."""
        return self._scaler.state_dict()

    def restore(self, momenta: Mapping[str, Tensor], scaling: dict[str, Any]) -> None:
        """Go on with those momenta and that scaling. Raises KeyError or RuntimeError where they fit no weight."""
        of = {weight: optimizer for optimizer, _ in self._parts for weight in optimizer.param_groups[0]["params"]}
        for name, momentum in momenta.items():
            weight = self._weights[name]
            of[weight].state[weight]["momentum_buffer"] = torch.empty_like(weight.detach()).copy_(momentum)
        self._scaler.load_state_dict(scaling)
