"""The optimizer: SGD, and Muon for convolution kernels if the recipe has a `muon` value above 0."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from netkit.nets.training.muon import Muon
from netkit.nets.training.recipe import Recipe

FUSED_DEVICES = ("cpu", "cuda")  # torch has fused SGD for these, but not for meta


class Optimizer:
    """Updates the weights of a model according to the recipe. `scaled` turns on loss scaling, for float16."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, device: torch.device, scaled: bool) -> None:
        self._max_grad_norm = recipe.max_grad_norm
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        kernels = [weight for weight in self._weights.values() if recipe.muon and weight.ndim == 4]
        rest = [weight for weight in self._weights.values() if not (recipe.muon and weight.ndim == 4)]
        lr, momentum, nesterov = recipe.lr, recipe.momentum, recipe.nesterov
        fused = device.type in FUSED_DEVICES
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []  # with factors of the learning rate
        if rest:
            sgd = SGD(rest, lr, momentum, weight_decay=recipe.weight_decay, nesterov=nesterov, fused=fused)
            self._optimizers.append((sgd, 1.0))
        if kernels:
            self._optimizers.append((Muon(kernels, lr, momentum, nesterov=nesterov), recipe.muon))
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def step(self, loss: Tensor, *, lr: float) -> None:
        """Backpropagate `loss` and do one optimizer step."""
        for optimizer, lr_factor in self._optimizers:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = lr * lr_factor
        self._scaler.scale(loss).backward()
        for optimizer, _ in self._optimizers:
            self._scaler.unscale_(optimizer)
        if self._scaler.is_enabled():  # the scaler skips steps with NaN or infinity, but clipping sums over all weights
            for weight in self._weights.values():
                if weight.grad is not None:
                    weight.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        if self._max_grad_norm:
            clip_grad_norm_(self._weights.values(), self._max_grad_norm)
        for optimizer, _ in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()

    def momentum_buffers(self) -> dict[str, Tensor]:
        """Return the momentum of each weight by name, not copied; empty before the first step."""
        by_weight = {weight: state for opt, _ in self._optimizers for weight, state in opt.state.items()}
        states = {name: by_weight.get(weight, {}) for name, weight in self._weights.items()}
        return {name: state["momentum_buffer"] for name, state in states.items() if "momentum_buffer" in state}

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of float16's loss scaling; empty in other precisions."""
        return self._scaler.state_dict()

    def restore(self, momentum_buffers: Mapping[str, Tensor], scaler_state: dict[str, Any]) -> None:
        """Load this state. Raises KeyError or RuntimeError if it does not match the weights."""
        owner = {weight: opt for opt, _ in self._optimizers for weight in opt.param_groups[0]["params"]}
        for name, momentum in momentum_buffers.items():
            weight = self._weights[name]
            owner[weight].state[weight]["momentum_buffer"] = torch.empty_like(weight.detach()).copy_(momentum)
        self._scaler.load_state_dict(scaler_state)
