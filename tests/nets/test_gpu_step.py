"""A training step on a GPU does not synchronize with the host. Tested without a GPU, on meta and fake tensors.

A meta tensor has a shape but no values, so reading a value fails. The asynchronous copy of the losses is skipped here;
tests/nets/test_step_metrics.py tests it on a GPU.
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
from netkit.nets.training.step_metrics import AsyncLosses
from netkit.nets.training.trainer import Trainer

STEPS = 3
EVERY_ARCH = pytest.mark.parametrize("arch", ARCHITECTURES)


class NoCpuTensors(TorchDispatchMode):
    """Raises AssertionError if an operator gets a CPU tensor, e.g. as index, scalar or source of a copy."""

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                raise AssertionError(f"{func} gets a CPU tensor")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def make_trainer(
    card: ModelCard, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Trainer]:
    """A function that creates a Trainer of a network on the meta device."""
    monkeypatch.setattr(AsyncLosses, "send", lambda *arguments: None)

    def make(arch: str) -> Trainer:
        model = FromPixels(create(arch), replace(card, arch=arch))
        recipe = replace(recipe_named("fast", arch=arch), batch_size=32, precision="fp32")
        return Trainer(model, digits_data, recipe=recipe, seed=0, device=torch.device("meta"))

    return make


def run_steps(trainer: Trainer) -> None:
    """Run the first steps of an epoch."""
    steps = trainer.run()
    next(steps)  # sends the epoch's order and augmentation to the device
    with NoCpuTensors():  # type: ignore[no-untyped-call]
        for _ in range(STEPS):
            next(steps)
    assert trainer.step == STEPS + 1 and not trainer.schedule.ends_epoch(trainer.step)


@EVERY_ARCH
def test_step_gets_no_cpu_tensor_and_reads_no_value(arch: str, make_trainer: Callable[[str], Trainer]) -> None:
    run_steps(make_trainer(arch))


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
def test_host_access_in_a_step_is_detected(name: str, during: str, make_trainer: Callable[[str], Trainer]) -> None:
    access, exception, message = HOST_ACCESS[name]
    trainer = make_trainer("residual")
    if during == "forward":
        trainer.model.register_forward_hook(lambda module, inputs, output: void(access(output)))
    else:
        for weight in trainer.model.parameters():
            weight.register_post_accumulate_grad_hook(lambda weight: void(access(weight)))
    with pytest.raises(exception, match=message):
        run_steps(trainer)


def void(result: object) -> None:
    """Drop `result`: a tensor that a hook returns would replace the output."""


@EVERY_ARCH
def test_forward_pass_runs_on_fake_cuda_tensors(arch: str, card: ModelCard) -> None:
    maps = draw_maps(8, 28, 28, recipe=recipe_named("fast"), seed=0, epoch=1)
    assert maps is not None
    cuda = torch.device("cuda", 7)  # no real GPU: warp caches a tensor per device
    with FakeTensorMode(allow_non_fake_inputs=True), cuda:
        model = FromPixels(create(arch), replace(card, arch=arch))
        images_u8 = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
        logits = model(warp(images_u8, maps.to(cuda)))
        assert (logits.device, logits.shape) == (cuda, (8, 10))
        with pytest.raises(DataDependentOutputException):
            logits.sum().item()
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            logits + torch.zeros(10, device="cpu")
