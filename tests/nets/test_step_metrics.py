"""The loss of a step, and its asynchronous copy from a GPU."""

from dataclasses import replace

import pytest
import torch

from netkit.core.errors import TrainingError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.schedule import EpochSchedule
from netkit.nets.training.step_metrics import COPY_EVERY_STEPS, AsyncLosses, StepMetrics
from netkit.nets.training.trainer import Trainer

CPU = torch.device("cpu")


def test_step_metrics_format_as_text() -> None:
    assert str(StepMetrics(2, 0.25)) == "epoch 2, loss 0.250"


@pytest.mark.parametrize("wait", [False, True])
def test_losses_on_the_cpu_arrive_immediately_and_once(wait: bool) -> None:
    losses = AsyncLosses(EpochSchedule(replace(recipe_named("fast"), batch_size=10), 20), CPU)
    for step in (2, 3):
        losses.send(step, torch.tensor(step / 2))
        assert losses.latest(wait=wait) == StepMetrics(step - 1, step / 2)  # an epoch has two steps
        assert losses.latest(wait=wait) is None


@pytest.mark.parametrize(
    ("step", "message"), [(1, "the loss is nan before any weight changed"), (2, "at step 2 of 16, .*; lower --lr")]
)
def test_only_a_later_step_blames_the_learning_rate_for_nan(step: int, message: str) -> None:
    losses = AsyncLosses(EpochSchedule(replace(recipe_named("fast"), drop_fraction=0.0, batch_size=10), 20), CPU)
    losses.send(step, torch.tensor(torch.nan))
    with pytest.raises(TrainingError, match=message):
        losses.latest(wait=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_steps_within_an_epoch_do_not_synchronize_with_the_gpu(card: ModelCard, digits_data: ArrayDataSet) -> None:
    recipe = replace(recipe_named("fast"), epochs=2, batch_size=32)
    trainer = Trainer(FromPixels(build(card), card), digits_data, recipe=recipe, seed=0, device=torch.device("cuda"))
    epoch_steps = trainer.schedule.steps // 2
    assert epoch_steps > 2 * COPY_EVERY_STEPS
    metrics = trainer.run()
    for _ in range(epoch_steps + 1):  # the second epoch's first step copies its order to the GPU
        next(metrics)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(epoch_steps - 2):
            next(metrics)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert list(metrics)[-1] is not None
