"""The metrics of a step: what they say of which step, and that no GPU waits for them."""

from dataclasses import replace

import pytest
import torch

from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.step_metrics import COPY_EVERY, AsyncScalars, StepMetrics
from netkit.nets.training.trainer import Training

CPU = torch.device("cpu")


def test_step_metrics_read_as_a_line_for_people() -> None:
    assert str(StepMetrics(2, 0.25, 0.98765)) == "epoch 2, loss 0.250, train 98.77%"


@pytest.mark.parametrize("wait", [False, True])
def test_numbers_on_the_cpu_arrive_at_once_in_order_and_once(wait: bool) -> None:
    scalars = AsyncScalars(CPU)
    for step in (1, 2):
        scalars.send(step, torch.tensor([step / 2, step * 10.0]), always=False)
    assert list(scalars.received(wait=wait)) == [(1, [0.5, 10.0]), (2, [1.0, 20.0])]
    assert list(scalars.received(wait=wait)) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_within_an_epoch_no_step_waits_for_the_gpu(card: ModelCard, digits_data: ArrayDataSet) -> None:
    recipe = replace(recipe_named("fast"), epochs=2, batch_size=32)
    training = Training(FromPixels(build(card), card), digits_data, recipe=recipe, seed=0, device=torch.device("cuda"))
    an_epoch = training.schedule.steps // 2
    assert an_epoch > 2 * COPY_EVERY
    metrics = training.run()
    for _ in range(an_epoch + 1):  # the second epoch's first step brings its order there
        next(metrics)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(an_epoch - 2):
            next(metrics)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert list(metrics)[-1] is not None
