"""HTML report of an evaluation: one self-contained file, rendered from report.html.jinja. Needs the extra [report]."""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core import atomic_io
from netkit.core.errors import ImageError, MissingExtraError, UsageError, one_line
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.infer.evaluation.corruptions import corrupt
from netkit.infer.evaluation.metrics import Inputs
from netkit.infer.evaluation.result import Evaluation
from netkit.infer.runtime.providers import NAMES

EXAMPLES = 6  # images per corruption
EXAMPLE_SIDE, MISTAKE_SIDE = 56, 112  # longer side of an image on the page, in CSS pixels
MAX_MATRIX_CLASSES = 30  # with more classes, a list of confused pairs is easier to read than a matrix
MAX_PAIRS = 20
AXIS_STARTS = (0.99, 0.98, 0.95, 0.9, 0.8, 0.5)  # possible starts of the axis of bars, besides 0
MIN_BAR = 0.2  # length of the shortest bar, as a share of the axis, unless the axis starts at 0


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, and its size on the page in CSS pixels."""

    uri: str
    width: int
    height: int


def check_path(path: Path) -> None:
    """Check that a report can be written to `path`.

    Raises UsageError unless `path` is a writable .html file; MissingExtraError if Jinja2 is not installed.
    """
    if path.suffix.lower() != ".html":
        raise UsageError(f"--out {path}: the name of a report must end in .html")
    if not find_spec("jinja2"):
        raise MissingExtraError("jinja2", "report")
    atomic_io.require_writable(path)


def write(path: Path, evaluation: Evaluation, inputs: Inputs, labels: NDArray[np.int64], decoder: Decoder) -> None:
    """Write the report of `evaluation` to `path` atomically."""
    html = render(evaluation, inputs, labels, decoder)
    atomic_io.write_atomic(path, html.encode())


def render(evaluation: Evaluation, inputs: Inputs, labels: NDArray[np.int64], decoder: Decoder) -> str:
    """Render the report as HTML. `inputs` and their class indices `labels` (N,) are those that were evaluated."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # needs an extra

    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        finalize=_printable,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with suppress_pillow_warnings():
        corruptions = _corruptions(evaluation, inputs, labels, decoder)
        mistakes = [(mistake, _input_picture(inputs[mistake.index], decoder)) for mistake in evaluation.mistakes]
    return environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        device=NAMES[evaluation.provider],
        matrix=_matrix(evaluation.confusion) if len(evaluation.classes) <= MAX_MATRIX_CLASSES else None,
        pairs=_confused_pairs(evaluation),
        class_axis=_axis_start(score for class_ in evaluation.classes for score in (class_.precision, class_.recall)),
        corruption_axis=_axis_start([evaluation.accuracy, *evaluation.corrupted.values()]),
        corruptions=corruptions,
        mistakes=mistakes,
    )


def _printable(value: Any) -> Any:
    """Escape control characters and lone surrogates in text; leave Markup, a subclass of str, unchanged."""
    return one_line(value) if type(value) is str else value


def _axis_start(scores: Iterable[float | None]) -> float:
    """The start of the axis of bars, which ends at 1. With a high start, bars of 0.992 and 0.999 look different."""
    max_gap = 1 - min((score for score in scores if score is not None), default=0)
    return next((start for start in AXIS_STARTS if max_gap <= (1 - MIN_BAR) * (1 - start)), 0)


def _matrix(confusion: tuple[tuple[int, ...], ...]) -> list[list[tuple[int, float]]]:
    """The counts of the confusion matrix, each with the opacity of its color: 0 for correct predictions."""
    mistakes = _mistakes_only(confusion)
    opacity = np.where(mistakes, 0.15 + 0.7 * mistakes / max(1, mistakes.max()), 0)
    return [list(zip(counts, row, strict=True)) for counts, row in zip(confusion, opacity.tolist(), strict=True)]


def _confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The most frequent mistakes: true class, predicted class, number of images."""
    names = [class_.label for class_ in evaluation.classes]
    mistakes = _mistakes_only(evaluation.confusion)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [(names[row], names[column], int(mistakes[row, column])) for row, column in pairs if mistakes[row, column]]


def _mistakes_only(confusion: tuple[tuple[int, ...], ...]) -> NDArray[np.int64]:
    mistakes = np.array(confusion)
    np.fill_diagonal(mistakes, 0)
    return mistakes


def _corruptions(
    evaluation: Evaluation, inputs: Inputs, labels: NDArray[np.int64], decoder: Decoder
) -> list[tuple[str, list[Picture], float]]:
    """Name, examples and accuracy without corruption and under each one; empty if corruptions were not measured."""
    if not evaluation.corrupted:
        return []
    examples = list(_examples(inputs, labels, decoder))
    rows = [("none", [_picture(pixels, EXAMPLE_SIDE) for pixels in examples], evaluation.accuracy)]
    for name, accuracy in evaluation.corrupted.items():
        rows.append((name, [_picture(corrupt(pixels, name), EXAMPLE_SIDE) for pixels in examples], accuracy))
    return rows


def _examples(inputs: Inputs, labels: NDArray[np.int64], decoder: Decoder) -> Iterator[NDArray[np.uint8]]:
    """The first readable image of each of the first classes."""
    for label in np.unique(labels)[:EXAMPLES]:
        for index in np.flatnonzero(labels == label).tolist():
            try:
                yield decoder(inputs[index])
                break
            except ImageError:
                continue


def _input_picture(image: str | NDArray[np.uint8], decoder: Decoder) -> Picture | None:
    """The image as a picture; None if its file can no longer be read."""
    try:
        return _picture(decoder(image), MISTAKE_SIDE)
    except ImageError:
        return None


def _picture(pixels: NDArray[np.uint8], side: int) -> Picture:
    """Encode pixels (channels, height, width) as a PNG of at most twice the size on the page."""
    channels, height, width = pixels.shape
    image = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
    image.thumbnail((2 * side, 2 * side))
    content = io.BytesIO()
    image.save(content, "PNG")
    scale = side / max(height, width)
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return Picture(uri, max(1, round(width * scale)), max(1, round(height * scale)))
