"""The pictures of a run: their texts, values and images."""

import io
from dataclasses import replace
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

CLASS_NAMES = ("cat", "dog", "owl")
TRUE_CLASSES = np.array([0, 0, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 1, 1, 2, 0, 0])


def image_of(axes: Axes) -> NDArray[np.generic]:
    return np.asarray(axes.images[0].get_array())


def test_curves_show_all_four_metrics_of_every_epoch() -> None:
    rows = [EpochMetrics(e, e * 10, 0.1, 1 / e, 0.9 + e / 100, 0.5 / e, 0.8 + e / 100, 1.0) for e in (1, 2, 3)]
    loss, accuracy = plots.curves(rows, smoothed_labels=True).axes
    assert [np.asarray(line.get_ydata()).tolist() for line in loss.lines] == [[1, 0.5, 1 / 3], [0.5, 0.25, 0.5 / 3]]
    assert [line.get_label() for line in loss.lines] == [
        "training loss with label smoothing: 0.3333",
        "test loss: 0.1667",
    ]
    assert [line.get_label() for line in accuracy.lines] == ["training accuracy: 0.9300", "test accuracy: 0.8300"]
    assert [np.asarray(line.get_xdata()).tolist() for line in accuracy.lines] == [[1, 2, 3]] * 2
    validated = plots.curves([replace(row, split="val") for row in rows], smoothed_labels=True).axes[1]
    assert validated.lines[1].get_label() == "validation accuracy: 0.8300"


def test_confusion_matrix_has_all_counts_and_colors_only_mistakes() -> None:
    (axes,) = plots.confusion(TRUE_CLASSES, PREDICTIONS, CLASS_NAMES).axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (prediction, label)
    assert {position: int(text) for position, text in cells.items() if text} == {
        (0, 0): 1, (1, 0): 1, (1, 1): 2, (2, 2): 1, (0, 2): 2,
    }  # fmt: skip
    assert np.array_equal(image_of(axes), [[0, 1, 0], [0, 0, 0], [2, 0, 0]])
    assert axes.get_title() == "confusion matrix: 3 of 7 test images misclassified"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASS_NAMES)


def test_mistakes_are_sorted_worst_first_and_titled_with_index_and_classes() -> None:
    probabilities = np.zeros((7, 3), np.float32)
    probabilities[np.arange(7), PREDICTIONS] = [0.9, 0.5, 0.9, 0.9, 0.9, 0.6, 0.99]
    probabilities[[1, 5, 6], TRUE_CLASSES[[1, 5, 6]]] = [0.4, 0.3, 0.01]
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), np.uint8)
    figure = plots.mistakes(images, TRUE_CLASSES, probabilities, CLASS_NAMES)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == [
        "#6: true owl,\npredicted cat (0.99)",
        "#5: true owl,\npredicted cat (0.60)",
        "#1: true cat,\npredicted dog (0.50)",
    ]
    assert np.array_equal(image_of(figure.axes[0]), images[6].transpose(1, 2, 0))


def test_no_mistakes_and_many_classes_can_be_drawn(tmp_path: Path) -> None:
    classes = 62
    labels = np.arange(classes)
    names = [f"class {index}" for index in labels]
    plots.save(plots.confusion(labels, labels, names), tmp_path / "a.png")
    probabilities = np.eye(classes, dtype=np.float32)
    plots.save(plots.mistakes(np.zeros((classes, 1, 8, 8), np.uint8), labels, probabilities, names), tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        picture = np.asarray(Image.open(io.BytesIO((tmp_path / name).read_bytes())).convert("L"))
        assert picture.shape[0] > 100 and picture.std() > 1


UNUSUAL_NAMES = ("in_$", "$x_$", "a\\b_^", "new\nline", "$\\frac$", "日本語", "_x", "%s{}#", "long " * 30)


def texts_of(figure: Figure) -> dict[str, Text]:
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    return {text.get_text(): text for text in texts if text.get_text()}


def test_class_names_are_drawn_literally(tmp_path: Path) -> None:
    classes = len(UNUSUAL_NAMES)
    labels = np.arange(classes)
    predictions = (labels + 1) % classes
    probabilities = np.eye(classes, dtype=np.float32)[predictions]
    figures = [
        plots.confusion(labels, predictions, UNUSUAL_NAMES),
        plots.mistakes(np.zeros((classes, 1, 8, 8), np.uint8), labels, probabilities, UNUSUAL_NAMES),
    ]
    for figure in figures:
        plots.save(figure, tmp_path / "a.png")
        assert not any(text.get_parse_math() or text.get_usetex() for text in texts_of(figure).values())
    assert {"in_$", "$x_$", "a\\b_^", "new\\nline", "$\\frac$", "日本語", "_x", "%s{}#"} <= texts_of(figures[0]).keys()
    assert {
        "#0: true in_$,\npredicted $x_$ (1.00)",
        "#3: true new\\nline,\npredicted $\\frac$ (1.00)",
    } <= texts_of(figures[1]).keys()
    assert max(map(len, texts_of(figures[0]))) < 100


def test_failing_picture_causes_one_warning_and_all_others_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curves.png").mkdir()
    rows = [EpochMetrics(1, 10, 0.1, 0.5, 0.9, 0.5, 0.9, 1.0)]
    probabilities = np.eye(3, dtype=np.float32)[PREDICTIONS]
    images = np.zeros((7, 1, 8, 8), np.uint8)
    plots.draw_all(
        tmp_path,
        rows,
        smoothed_labels=False,
        images=images,
        labels=TRUE_CLASSES,
        probabilities=probabilities,
        class_names=CLASS_NAMES,
    )
    curves = tmp_path / "curves.png"
    assert caplog.messages == [f"{curves}: cannot be drawn: {curves}: is a folder; pass the name of a file with --out"]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"confusion.png", "mistakes.png"}
