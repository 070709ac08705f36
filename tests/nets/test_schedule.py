"""The timetable, against one counted batch by batch."""

from dataclasses import replace

import pytest

from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.schedule import Timetable


@pytest.mark.parametrize(
    ("images", "batch_size", "skip", "in_an_epoch"),
    [
        (1000, 128, 0.0, [1000] * 5),
        (1000, 128, 0.3, [1000, 1000, 700, 700, 700]),
        (1001, 100, 0.5, [1001, 1001, 501, 501, 501]),
        (3, 4, 0.9, [3, 3, 1, 1, 1]),
    ],
)
def test_every_step_has_its_place(images: int, batch_size: int, skip: float, in_an_epoch: list[int]) -> None:
    table = Timetable(replace(recipe_named("fast"), epochs=5, batch_size=batch_size, skip_easiest=skip), images)
    steps = learnt = 0
    for epoch, count in enumerate(in_an_epoch, start=1):
        assert table.images_in(epoch) == count
        for begun, start in enumerate(range(0, count, batch_size)):
            assert table.place(steps) == (epoch, begun)
            assert table.images_after(steps) == learnt + start
            assert table.ends_an_epoch(steps) == (begun == 0 and steps > 0)
            steps += 1
        learnt += count
    assert (table.steps, table.images) == (steps, learnt) == (steps, table.images_after(steps))
    assert table.ends_an_epoch(steps)
