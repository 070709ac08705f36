"""Runs from and into fixed buffers answer as plain runs do, on the CPU here; CUDA's are in test_session."""

import numpy as np
import pytest

from netkit.data.dataset import ArrayDataSet
from netkit.infer.runtime.io_binding import MAX_BINDINGS, Bindings
from netkit.infer.runtime.session import Session


@pytest.fixture
def bindings(session: Session) -> Bindings:
    return Bindings(session.runtime, session.card, "cpu")


def test_answers_are_those_of_plain_runs_whatever_the_order_of_sizes(
    session: Session, digits_data: ArrayDataSet, bindings: Bindings
) -> None:
    images, answers = digits_data.test_images, []
    sizes = [(5, None), (7, 7), (3, 7), (7, 7), (9, 7), (1, 16), (16, 16), (5, None), (64, 64), (2, 64), (1, 7)]
    for start, (count, size) in enumerate(sizes):
        answers.append((start, count, bindings.run(images[start : start + count], size=size)))
    for start, count, found in answers:  # after all runs: none writes into what an earlier one gave
        for one, expected in zip(found, session.run(images[start : start + count]), strict=True):
            assert one.shape == (count, 10) and one.dtype == np.float32
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)


def test_what_a_larger_batch_left_behind_and_the_padding_change_no_answer(
    session: Session, digits_data: ArrayDataSet, bindings: Bindings
) -> None:
    bindings.run(digits_data.test_images[:16], size=16)
    padded, _ = bindings.run(digits_data.test_images[20:23], size=16)
    alone, _ = session.run(digits_data.test_images[20:23])
    np.testing.assert_allclose(padded, alone, rtol=1e-5, atol=1e-5)


def test_buffers_are_kept_for_the_sizes_last_used_and_not_for_a_run_that_failed(
    digits_data: ArrayDataSet, bindings: Bindings
) -> None:
    images = digits_data.test_images
    for size in (1, 2, 3, 4, 5, 2, 6):
        bindings.run(images[:1], size=size)
    assert list(bindings.by_size) == [(4, True), (5, True), (2, True), (6, True)] and MAX_BINDINGS == 4
    with pytest.raises(ValueError, match="broadcast"):
        bindings.run(images[:1, :, :20], size=6)
    assert (6, True) not in bindings.by_size


def test_a_recording_is_never_played_from_buffers_that_are_gone(digits_data: ArrayDataSet, bindings: Bindings) -> None:
    """Each set of buffers has a number of its own for its graph; runs of sizes that may not come again have none."""
    images, numbers = digits_data.test_images, []
    for count, size in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 1), (7, None)]:
        bindings.run(images[:count], size=size)
        numbers.append(list(bindings.by_size.values())[-1].graph_id)
    assert numbers[-1] == "-1"
    assert len(set(numbers)) == len(numbers)
