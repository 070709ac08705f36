"""A training step on a GPU never waits for the host. Tested without a GPU: on meta and fake tensors.

A meta tensor has a shape and no values, so reading a value fails. The asynchronous copy of a step's metrics is left out
here; tests/nets/test_step_metrics.py tests it on a GPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import ARCHITECTURES, create
from netkit.nets.normalize import FromPixels
from netkit.nets.training.augment import draw_maps, warp
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.step_metrics import AsyncScalars
from netkit.nets.training.trainer import Training

STEPS = 3
EVERY_NET = pytest.mark.parametrize("arch", ARCHITECTURES)


class NoCpuTensors(TorchDispatchMode):
    """Refuses every operator that gets a CPU tensor, as index, scalar or source of a copy."""

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                raise AssertionError(f"{func} gets a CPU tensor")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_meta(card: ModelCard, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Training]:
    """Makes a training of a network on the meta device."""
    monkeypatch.setattr(AsyncScalars, "send", lambda *arguments, **options: None)

    def make(arch: str) -> Training:
        model = FromPixels(create(arch), replace(card, arch=arch))
        recipe = replace(recipe_named("fast", arch=arch), batch_size=32, precision="fp32")
        return Training(model, digits_data, recipe=recipe, seed=0, device=torch.device("meta"))

    return make


def run_steps(training: Training) -> None:
    """The first steps of an epoch."""
    steps = training.run()
    next(steps)  # sends the epoch's order and augmentation to the device
    with NoCpuTensors():  # type: ignore[no-untyped-call]
        for _ in range(STEPS):
            next(steps)
    assert training.step == STEPS + 1 and not training.schedule.ends_epoch(training.step)


@EVERY_NET
def test_a_step_gets_no_cpu_tensor_and_reads_no_value(arch: str, on_meta: Callable[[str], Training]) -> None:
    run_steps(on_meta(arch))


ON_CPU = torch.zeros(1, dtype=torch.int64)
HOST_ACCESS: dict[str, tuple[Callable[[Tensor], object], type[Exception], str]] = {
    "cpu": (lambda tensor: tensor.cpu(), NotImplementedError, "Cannot copy out of meta tensor"),
    "item": (lambda tensor: tensor.sum().item(), RuntimeError, r"item\(\) cannot be called on meta tensors"),
    "tolist": (lambda tensor: tensor.tolist(), NotImplementedError, "Cannot copy out of meta tensor"),
    "CPU index": (lambda tensor: tensor[ON_CPU], AssertionError, "index.Tensor gets a CPU tensor"),
    "CPU scalar": (lambda tensor: tensor * ON_CPU[0], AssertionError, "gets a CPU tensor"),
    "copy to the device": (lambda tensor: ON_CPU.to(tensor.device), AssertionError, "_to_copy.default gets a CPU"),
}


@pytest.mark.parametrize("during", ["forward", "backward"])
@pytest.mark.parametrize("name", HOST_ACCESS)
def test_host_access_in_a_step_is_found(name: str, during: str, on_meta: Callable[[str], Training]) -> None:
    access, error, message = HOST_ACCESS[name]
    training = on_meta("residual")
    if during == "forward":
        training.model.register_forward_hook(lambda module, inputs, output: void(access(output)))
    else:
        for weight in training.model.parameters():
            weight.register_post_accumulate_grad_hook(lambda weight: void(access(weight)))
    with pytest.raises(error, match=message):
        run_steps(training)


def void(result: object) -> None:
    """Drop `result`: a tensor that a hook returns would replace the output."""


@EVERY_NET
def test_the_forward_pass_runs_on_fake_cuda_tensors(arch: str, card: ModelCard) -> None:
    maps = draw_maps(8, 28, 28, recipe=recipe_named("fast"), seed=0, epoch=1)
    assert maps is not None
    cuda = torch.device("cuda", 7)  # not a real GPU's number: warp caches a tensor for each device
    with FakeTensorMode(allow_non_fake_inputs=True), cuda:
        model = FromPixels(create(arch), replace(card, arch=arch))
        images_u8 = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
        logits = model(warp(images_u8, maps.to(cuda)))
        assert (logits.device, logits.shape) == (cuda, (8, 10))
        with pytest.raises(DataDependentOutputException):
            logits.sum().item()
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            logits + torch.zeros(10, device="cpu")
