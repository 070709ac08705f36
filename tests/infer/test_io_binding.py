"""Runs with fixed buffers give the outputs of plain runs. These tests run on the CPU; test_session covers CUDA."""

import numpy as np
import pytest

from netkit.data.dataset import ArrayDataSet
from netkit.infer.runtime.io_binding import MAX_BINDINGS, Bindings
from netkit.infer.runtime.session import Session


@pytest.fixture
def bindings(session: Session) -> Bindings:
    return Bindings(session.runtime, session.card, "cpu")


def test_outputs_equal_those_of_plain_runs_for_any_order_of_batch_sizes(
    session: Session, digits_data: ArrayDataSet, bindings: Bindings
) -> None:
    images, runs = digits_data.test_images, []
    sizes = [(5, None), (7, 7), (3, 7), (7, 7), (9, 7), (1, 16), (16, 16), (5, None), (64, 64), (2, 64), (1, 7)]
    for start, (count, size) in enumerate(sizes):
        runs.append((start, count, bindings.run(images[start : start + count], size=size)))
    for start, count, outputs in runs:  # compared at the end: no run overwrites the outputs of an earlier one
        for output, expected in zip(outputs, session.run(images[start : start + count]), strict=True):
            assert output.shape == (count, 10) and output.dtype == np.float32
            np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_padding_and_the_images_of_an_earlier_batch_change_no_output(
    session: Session, digits_data: ArrayDataSet, bindings: Bindings
) -> None:
    bindings.run(digits_data.test_images[:16], size=16)
    padded, _ = bindings.run(digits_data.test_images[20:23], size=16)
    alone, _ = session.run(digits_data.test_images[20:23])
    np.testing.assert_allclose(padded, alone, rtol=1e-5, atol=1e-5)


def test_buffers_of_the_last_used_sizes_are_kept_except_those_of_a_failed_run(
    digits_data: ArrayDataSet, bindings: Bindings
) -> None:
    images = digits_data.test_images
    for size in (1, 2, 3, 4, 5, 2, 6):
        bindings.run(images[:1], size=size)
    assert list(bindings.by_size) == [(4, True), (5, True), (2, True), (6, True)] and MAX_BINDINGS == 4
    with pytest.raises(ValueError, match="broadcast"):
        bindings.run(images[:1, :, :20], size=6)
    assert (6, True) not in bindings.by_size


def test_a_graph_is_never_replayed_with_other_buffers(digits_data: ArrayDataSet, bindings: Bindings) -> None:
    """Each set of buffers has its own graph ID. A run without a size records no graph, so its ID is -1."""
    images, graph_ids = digits_data.test_images, []
    for count, size in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 1), (7, None)]:
        bindings.run(images[:count], size=size)
        graph_ids.append(list(bindings.by_size.values())[-1].graph_id)
    assert graph_ids[-1] == "-1"
    assert len(set(graph_ids)) == len(graph_ids)
