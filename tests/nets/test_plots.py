"""The pictures of a run, by what stands in them."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from netkit.nets.training import plots
from netkit.nets.training.metrics import EpochMetrics

LABELS = ("cat", "dog", "owl")
TRUTH = np.array([0, 0, 1, 1, 2, 2, 2])
ANSWERS = np.array([0, 1, 1, 1, 2, 0, 0])


def shown(axes: Axes) -> NDArray[np.generic]:
    return np.asarray(axes.images[0].get_array())


def test_curves_show_every_epoch_of_all_four_numbers() -> None:
    rows = [EpochMetrics(e, e * 10, 0.1, 1 / e, 0.9 + e / 100, 0.5 / e, 0.8 + e / 100, 1.0) for e in (1, 2, 3)]
    loss, accuracy = plots.curves(rows, smoothed=True).axes
    assert [np.asarray(line.get_ydata()).tolist() for line in loss.lines] == [[1, 0.5, 1 / 3], [0.5, 0.25, 0.5 / 3]]
    assert [line.get_label() for line in loss.lines] == ["train, labels smoothed, 0.3333", "test 0.1667"]
    assert [line.get_label() for line in accuracy.lines] == ["train 0.9300", "test 0.8300"]
    assert [np.asarray(line.get_xdata()).tolist() for line in accuracy.lines] == [[1, 2, 3]] * 2


def test_confusion_counts_each_pair_and_colours_mistakes_alone() -> None:
    (axes,) = plots.confusion(TRUTH, ANSWERS, LABELS).axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (answer, truth)
    assert {place: int(text) for place, text in cells.items() if text} == {
        (0, 0): 1, (1, 0): 1, (1, 1): 2, (2, 2): 1, (0, 2): 2,
    }  # fmt: skip
    assert np.array_equal(shown(axes), [[0, 1, 0], [0, 0, 0], [2, 0, 0]])
    assert axes.get_title() == "3 of 7 test images misclassified"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LABELS)


def test_mistakes_come_worst_first_with_index_truth_and_answer() -> None:
    probabilities = np.zeros((7, 3), np.float32)
    probabilities[np.arange(7), ANSWERS] = [0.9, 0.5, 0.9, 0.9, 0.9, 0.6, 0.99]
    probabilities[[1, 5, 6], TRUTH[[1, 5, 6]]] = [0.4, 0.3, 0.01]
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), np.uint8)
    figure = plots.mistakes(images, TRUTH, probabilities, LABELS)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["#6: owl → cat (99%)", "#5: owl → cat (60%)", "#1: cat → dog (50%)"]
    assert np.array_equal(shown(figure.axes[0]), images[6].transpose(1, 2, 0))


def test_a_run_without_mistakes_and_one_with_many_classes_are_drawn_too(tmp_path: Path) -> None:
    classes = 62
    truth = np.arange(classes)
    names = [f"class {index}" for index in truth]
    plots.save(plots.confusion(truth, truth, names), tmp_path / "a.png")
    sure = np.eye(classes, dtype=np.float32)
    plots.save(plots.mistakes(np.zeros((classes, 1, 8, 8), np.uint8), truth, sure, names), tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        picture = np.asarray(Image.open(io.BytesIO((tmp_path / name).read_bytes())).convert("L"))
        assert picture.shape[0] > 100 and picture.std() > 1


STRANGE = ("in_$", "$x_$", "a\\b_^", "new\nline", "$\\frac$", "日本語", "_x", "%s{}#", "long " * 30)


def texts_of(figure: Figure) -> dict[str, Text]:
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    return {text.get_text(): text for text in texts if text.get_text()}


def test_class_names_are_drawn_literally(tmp_path: Path) -> None:
    classes = len(STRANGE)
    labels = np.arange(classes)
    answers = (labels + 1) % classes
    probabilities = np.eye(classes, dtype=np.float32)[answers]
    figures = [
        plots.confusion(labels, answers, STRANGE),
        plots.mistakes(np.zeros((classes, 1, 8, 8), np.uint8), labels, probabilities, STRANGE),
    ]
    for figure in figures:
        plots.save(figure, tmp_path / "a.png")
        assert not any(text.get_parse_math() or text.get_usetex() for text in texts_of(figure).values())
    assert {"in_$", "$x_$", "a\\b_^", "new\\nline", "$\\frac$", "日本語", "_x", "%s{}#"} <= texts_of(figures[0]).keys()
    assert {"#0: in_$ → $x_$ (100%)", "#3: new\\nline → $\\frac$ (100%)"} <= texts_of(figures[1]).keys()
    assert max(map(len, texts_of(figures[0]))) < 100


def test_a_picture_that_cannot_be_drawn_costs_one_line_and_no_other_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curves.png").mkdir()
    rows = [EpochMetrics(1, 10, 0.1, 0.5, 0.9, 0.5, 0.9, 1.0)]
    probabilities = np.eye(3, dtype=np.float32)[ANSWERS]
    images = np.zeros((7, 1, 8, 8), np.uint8)
    plots.draw_all(
        tmp_path, rows, smoothed=False, images=images, labels=TRUTH, probabilities=probabilities, class_names=LABELS
    )
    curves = tmp_path / "curves.png"
    assert caplog.messages == [f"warning: {curves}: cannot be drawn: {curves}: a folder, not a file"]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"confusion.png", "mistakes.png"}
