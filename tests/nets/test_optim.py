"""The optimizer, against torch's SGD and against the singular values of its steps."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netkit.nets.training.optim import Optimizer
from netkit.nets.training.recipe import Recipe, recipe_named

CPU = torch.device("cpu")
SGD = replace(recipe_named("fast"), muon=0.0, max_grad_norm=0.0)
MUON = replace(SGD, muon=0.5)


def small_net(*, channels_last: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(54, 4))
    return net.to(memory_format=torch.channels_last) if channels_last else net


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    images = torch.randn(16, 3, 7, 7, generator=torch.Generator().manual_seed(step))
    return F.cross_entropy(net(images), torch.arange(16) % 4)


def train(net: nn.Module, recipe: Recipe, *, steps: int = 3) -> Optimizer:
    optimizer = Optimizer(net, recipe, device=CPU, scaled=False)
    for step in range(steps):
        optimizer.step(loss_of(net, step), lr=0.1)
    return optimizer


def test_muon_trains_a_network_that_has_only_kernels() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = loss_of(net, 0).item()
    train(net, MUON, steps=5)
    assert loss_of(net, 0).item() < before


def test_without_muon_it_equals_torchs_sgd() -> None:
    net, torch_net = small_net(), small_net()
    train(net, SGD)
    optimizer = torch.optim.SGD(torch_net.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    for step in range(3):
        optimizer.zero_grad()
        loss_of(torch_net, step).backward()
        optimizer.step()
    for weight, expected in zip(net.parameters(), torch_net.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_muon_updates_kernels_with_near_orthogonal_steps_and_sgd_all_other_weights() -> None:
    net, plain = small_net(), small_net()
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    train(net, MUON, steps=1)
    train(plain, SGD, steps=1)
    for name, weight in net.named_parameters():
        if weight.ndim != 4:
            torch.testing.assert_close(weight, plain.get_parameter(name))
            continue
        moved = (before[name] - weight.detach()).flatten(1) / (0.1 * 0.5)
        downhill = (before[name] - plain.get_parameter(name).detach()).flatten(1)
        left, _, right = torch.linalg.svd(downhill, full_matrices=False)
        assert torch.linalg.matrix_norm(moved - left @ right, 2) < 0.75  # no step: 1; a step uphill: 2
        assert torch.linalg.svdvals(moved).max() < 1.3


def test_memory_format_of_kernels_does_not_change_steps() -> None:
    one, other = small_net(channels_last=True), small_net(channels_last=False)
    train(one, MUON)
    train(other, MUON)
    for weight, expected in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_to_the_maximum_norm() -> None:
    net = small_net()
    before = [weight.detach().clone() for weight in net.parameters()]
    train(net, replace(SGD, max_grad_norm=0.01, weight_decay=0.0), steps=1)
    moved = sum((now - then).square().sum().item() for now, then in zip(net.parameters(), before, strict=True)) ** 0.5
    assert moved == pytest.approx(0.1 * 0.01 * 1.9, rel=1e-3)  # Nesterov's first step is 1.9 times as long


@pytest.mark.parametrize("recipe", [SGD, MUON])
def test_restored_optimizer_continues_with_identical_steps(recipe: Recipe) -> None:
    net = small_net()
    first = train(net, recipe)
    copy = small_net()
    copy.load_state_dict(net.state_dict())
    second = Optimizer(copy, recipe, device=CPU, scaled=False)
    assert second.momentum_buffers() == {}
    buffers = {name: momentum.clone() for name, momentum in first.momentum_buffers().items()}
    assert buffers.keys() == dict(net.named_parameters()).keys()
    second.restore(buffers, first.scaler_state())
    for step in (3, 4):
        first.step(loss_of(net, step), lr=0.1)
        second.step(loss_of(copy, step), lr=0.1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), copy.parameters(), strict=True))


def test_momentum_of_another_network_is_rejected() -> None:
    optimizer = Optimizer(small_net(), MUON, device=CPU, scaled=False)
    with pytest.raises(KeyError):
        optimizer.restore({"9.weight": torch.zeros(4)}, {})
    with pytest.raises(RuntimeError):
        optimizer.restore({"0.weight": torch.zeros(3, 5)}, {})
