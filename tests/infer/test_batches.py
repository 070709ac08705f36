"""Each input gets exactly one row, in order, with its own prediction or error."""

import logging
import os
import threading
from collections.abc import Generator, Iterable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file
from netkit.infer.output.prediction import Row, rows_of
from netkit.infer.pipeline import batches
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.pipeline.threads import TASKS_PER_WORKER
from netkit.infer.runtime.session import Session, open_session
from tests.support.onnx_models import linear_model, weights

with_threads_and_processes = pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
STATUSES = ("ok", "ok", "not-an-image", "ok", "truncated", "not-found", "ok", "not-an-image", "unreadable")


@pytest.fixture(scope="module")
def linear(card: ModelCard) -> Session:
    """A session whose logits NumPy can compute: pixels x weights."""
    return open_session(onnx_file.check(linear_model(card).SerializeToString(), "linear.onnx"), device="cpu", threads=1)


def rows_of_paths(
    session: Session,
    paths: Iterable[str],
    *,
    batch_size: int,
    top_k: int = 1,
    workers: int = 2,
    decoder: Decoder | None = None,
    processes: bool = False,
) -> Iterator[Row]:
    decoder = decoder or Decoder(session.card.input)
    batches = predict(
        session,
        paths,
        decoder=decoder,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        brightness=BrightnessCheck(card=session.card, inverted=decoder.invert),
    )
    for predictions in batches:
        yield from rows_of(predictions, session.card.labels, top_k=top_k)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def save(path: Path, levels: NDArray[np.uint8]) -> str:
    Image.fromarray(levels).save(path)
    return str(path)


@pytest.fixture
def mixed(tmp_path: Path) -> list[str]:
    """150 inputs, whose statuses repeat STATUSES."""
    noise = np.random.default_rng(0).integers(0, 256, (150, 28, 28), dtype=np.uint8)
    paths = []
    for index, (status, levels) in enumerate(zip(cycle(STATUSES), noise, strict=False)):
        path = tmp_path / f"{index}.png"
        paths.append(save(path, levels))
        if status == "not-an-image":
            path.write_bytes(b"text" * (index % 2))
        elif status == "truncated":
            path.write_bytes(path.read_bytes()[:300])
        elif status != "ok":
            path.unlink()
            if status == "unreadable":
                path.mkdir()
    return paths


@with_threads_and_processes
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 64, 1000])
def test_each_input_has_one_row_in_order_equal_to_its_row_in_a_batch_of_one(
    linear: Session, card: ModelCard, mixed: list[str], batch_size: int, workers: int, processes: bool
) -> None:
    rows = list(
        rows_of_paths(linear, iter(mixed), batch_size=batch_size, top_k=10, workers=workers, processes=processes)
    )
    assert [row.path for row in rows] == mixed
    assert [row.status for row in rows] == [status for status, _ in zip(cycle(STATUSES), mixed, strict=False)]
    for row in rows:
        (alone,) = rows_of_paths(linear, [row.path], batch_size=1, top_k=3)
        assert (row.status, row.message) == (alone.status, alone.message)
        assert [label for label, _ in row.ranked[:3]] == [label for label, _ in alone.ranked]
        assert [p for _, p in row.ranked[:3]] == pytest.approx([p for _, p in alone.ranked], abs=1e-6)
        if row.status != "ok":
            assert row.message and not row.ranked
            continue
        logits = np.asarray(Image.open(row.path)).reshape(-1) @ weights(card).astype(float)
        order = np.argsort(-logits)
        expected = np.exp(logits) / np.exp(logits).sum()
        assert [label for label, _ in row.ranked] == [card.labels[rank] for rank in order]
        assert [p for _, p in row.ranked] == pytest.approx(expected[order], abs=1e-5)


@pytest.mark.parametrize("small_file_bytes", [0, 10**9])
def test_files_decoded_in_parallel_and_in_sequence_give_the_same_rows(
    linear: Session, mixed: list[str], monkeypatch: pytest.MonkeyPatch, small_file_bytes: int
) -> None:
    expected = list(rows_of_paths(linear, mixed, batch_size=4, top_k=10, workers=3))
    monkeypatch.setattr(batches, "SMALL_FILE_BYTES", small_file_bytes)
    assert list(rows_of_paths(linear, mixed, batch_size=4, top_k=10, workers=3)) == expected


def test_a_trained_model_has_the_test_accuracy_in_its_card(
    session: Session, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    paths = [save(tmp_path / f"{i}.png", image[0]) for i, image in enumerate(digits_data.test_images)]
    rows = rows_of_paths(session, paths, batch_size=50)
    correct = sum(row.ranked[0][0] == str(label) for row, label in zip(rows, digits_data.test_labels, strict=True))
    assert correct / len(paths) == pytest.approx(session.card.origin.test_accuracy, abs=1e-12)


@with_threads_and_processes
@pytest.mark.parametrize("paths", [[], ["no.png"], ["no.png"] * 7])
def test_batches_without_a_readable_image_have_a_row_for_each_input(
    linear: Session, paths: list[str], processes: bool
) -> None:
    rows = list(rows_of_paths(linear, paths, batch_size=3, processes=processes))
    assert [(row.path, row.status, row.message) for row in rows] == [(p, "not-found", "no such file") for p in paths]


def test_labels_with_probabilities_that_round_to_zero_are_sorted_by_logit(card: ModelCard, tmp_path: Path) -> None:
    proto = linear_model(card)
    steep = weights(card) * 1000
    proto.graph.initializer[0].raw_data = steep.tobytes()
    path = save(tmp_path / "a.png", np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8))
    steep_session = open_session(onnx_file.check(proto.SerializeToString(), "steep.onnx"), device="cpu")
    (row,) = rows_of_paths(steep_session, [path], batch_size=1, top_k=10)
    order = np.argsort(-(np.asarray(Image.open(path)).reshape(-1) @ steep.astype(float)))
    assert [label for label, _ in row.ranked] == [card.labels[rank] for rank in order]
    assert [p for _, p in row.ranked].count(0.0) > 2


@with_threads_and_processes
@pytest.mark.parametrize(
    ("level", "invert", "mean", "advice"),
    [
        (255, False, "1.00", "for dark ink on white pass --invert"),
        (102, False, "0.40", "for dark ink on white pass --invert"),
        (89, False, "0.35", None),
        (0, False, "0.00", None),
        (222, True, "0.13", None),
        (33, True, "0.87", "omit --invert"),
    ],
)
def test_brightness_far_from_that_of_the_training_images_logs_one_warning(
    linear: Session,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    level: int,
    invert: bool,
    mean: str,
    advice: str | None,
    processes: bool,
) -> None:
    path = save(tmp_path / "a.png", np.full((28, 28), level, np.uint8))
    decoder = Decoder(linear.card.input, invert=invert)
    with caplog.at_level(logging.INFO):
        paths = ["no.png", "no.png", *[path] * 6]
        rows = list(rows_of_paths(linear, paths, batch_size=2, decoder=decoder, processes=processes))
    warning = f"the mean brightness of the images is {mean}, but 0.13 in training; {advice}"
    assert len(rows) == 8
    assert caplog.messages == ([warning] if advice else [])


def test_outputs_that_are_nan_raise_a_model_error(card: ModelCard, tmp_path: Path) -> None:
    proto = linear_model(card)
    proto.graph.initializer[0].raw_data = (weights(card) * np.float32("nan")).tobytes()
    path = save(tmp_path / "a.png", np.zeros((28, 28), np.uint8))
    nan = open_session(onnx_file.check(proto.SerializeToString(), "nan.onnx"), device="cpu")
    with pytest.raises(ModelError, match=r"nan\.onnx: an output of the network is NaN or infinite"):
        list(rows_of_paths(nan, [path], batch_size=1))


def paths_that_fail(path: str) -> Iterator[str]:
    yield from [path] * 5
    raise ValueError("the list of paths is incomplete")


@with_threads_and_processes
@pytest.mark.parametrize("batch_size", [1, 4])
def test_closing_early_and_exceptions_leave_no_thread_and_no_process(
    linear: Session, tmp_path: Path, batch_size: int, processes: bool
) -> None:
    before = children()
    path = save(tmp_path / "a.png", np.zeros((28, 28), np.uint8))
    decoder = Decoder(linear.card.input)
    closed, interrupted = (
        predict(linear, cycle([path]), decoder=decoder, batch_size=batch_size, workers=2, processes=processes)
        for _ in range(2)
    )
    assert isinstance(closed, Generator) and isinstance(interrupted, Generator)
    assert len(next(closed).logits) == len(next(interrupted).logits) == batch_size
    assert len(children() - before) == 4 * processes
    closed.close()
    with pytest.raises(KeyboardInterrupt):
        interrupted.throw(KeyboardInterrupt)
    with pytest.raises(ValueError, match="the list of paths is incomplete"):
        list(rows_of_paths(linear, paths_that_fail(path), batch_size=batch_size, processes=processes))
    assert children() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("infer")]


@with_threads_and_processes
@pytest.mark.parametrize("workers", [1, 3])
def test_inputs_are_read_only_as_far_ahead_as_keeps_all_workers_busy(
    linear: Session, tmp_path: Path, workers: int, processes: bool
) -> None:
    path = save(tmp_path / "a.png", np.zeros((28, 28), np.uint8))
    taken: list[int] = []

    def paths() -> Iterator[str]:
        for index in range(100):
            taken.append(index)
            yield path

    task = 5 * (batches.BATCHES_PER_TASK if processes else 1)
    for done, _ in enumerate(rows_of_paths(linear, paths(), batch_size=5, workers=workers, processes=processes)):
        assert len(taken) <= (done // 5 + 1) * 5 + TASKS_PER_WORKER * workers * task + task


@pytest.mark.parametrize(
    ("count", "batch_size", "workers", "expected"),
    [(0, 64, 2, 1), (1, 64, 2, 1), (7, 64, 2, 4), (128, 64, 2, 64), (1000, 64, 2, 64), (5, 1, 8, 1), (9, 64, 4, 3)],
)
def test_a_few_paths_are_split_evenly_among_the_workers(
    count: int, batch_size: int, workers: int, expected: int
) -> None:
    inputs = [str(index) for index in range(count)]
    size, paths = split_evenly(iter(inputs), batch_size=batch_size, workers=workers)
    assert (size, list(paths)) == (expected, inputs)
