"""HTML report of an evaluation: one self-contained file, rendered from report.html.jinja. Needs the extra [report]."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core import atomic_io
from netkit.core.errors import ImageError, MissingExtraError, UsageError, one_line
from netkit.images.decoder import Decoder, pillow_silenced
from netkit.infer.evaluation.corruptions import corrupt
from netkit.infer.evaluation.metrics import Evaluation, Inputs

EXAMPLES = 6  # pictures of each corruption
EXAMPLE_SIDE, MISTAKE_SIDE = 56, 112  # CSS pixels of a picture's longer side
MAX_MATRIX_CLASSES = 30  # with more classes, a list of confused pairs is easier to read than a matrix
MAX_PAIRS = 20


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and the size at which a page shows it, in CSS pixels."""

    uri: str
    width: int
    height: int


def check_path(path: Path) -> None:
    """Check, before any work, that a report can be written to `path`.

    Raises UsageError unless `path` is a writable .html file; MissingExtraError if Jinja2 is not installed.
    """
    if path.suffix.lower() != ".html":
        raise UsageError(f"--out {path}: a report is written as .html")
    if not find_spec("jinja2"):
        raise MissingExtraError("jinja2", "report")
    atomic_io.require_writable(path)


def write(path: Path, evaluation: Evaluation, inputs: Inputs, labels: NDArray[np.int64], decoder: Decoder) -> None:
    """Write the report of `evaluation` to `path`, whole or not at all."""
    html = render(evaluation, inputs, labels, decoder)
    atomic_io.write_atomic(path, html.encode())


def render(evaluation: Evaluation, inputs: Inputs, labels: NDArray[np.int64], decoder: Decoder) -> str:
    """The report as HTML. `inputs` and their class indices `labels` (N,) are those that were evaluated."""
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
    with pillow_silenced():
        corruptions = _corruptions(evaluation, inputs, labels, decoder)
        mistakes = [(each, _input_picture(inputs[each.index], decoder)) for each in evaluation.mistakes]
    return environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        matrix=_matrix(evaluation.confusion) if len(evaluation.classes) <= MAX_MATRIX_CLASSES else None,
        pairs=_confused_pairs(evaluation),
        corruptions=corruptions,
        mistakes=mistakes,
    )


def _printable(value: Any) -> Any:
    """Spell out control characters and lone surrogates of a name; markup is a subclass of str and stays as it is."""
    return one_line(value) if type(value) is str else value


def _matrix(confusion: tuple[tuple[int, ...], ...]) -> list[list[tuple[int, float]]]:
    """Each count of the confusion matrix, with the opacity of its colour: 0 for correct predictions."""
    mistakes = _mistakes_only(confusion)
    opacity = np.where(mistakes, 0.15 + 0.7 * mistakes / max(1, mistakes.max()), 0)
    return [list(zip(counts, row, strict=True)) for counts, row in zip(confusion, opacity.tolist(), strict=True)]


def _confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The most frequent mistakes: true class, predicted class, number of images."""
    names = [each.label for each in evaluation.classes]
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
    """Name, examples and accuracy of the images as they are, and under each corruption; empty without corruptions."""
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
    """None if the file can no longer be read."""
    try:
        return _picture(decoder(image), MISTAKE_SIDE)
    except ImageError:
        return None


def _picture(pixels: NDArray[np.uint8], side: int) -> Picture:
    """Pixels (channels, height, width) as a PNG, at twice the shown size at most."""
    channels, height, width = pixels.shape
    image = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
    image.thumbnail((2 * side, 2 * side))
    content = io.BytesIO()
    image.save(content, "PNG")
    scale = side / max(height, width)
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return Picture(uri, max(1, round(width * scale)), max(1, round(height * scale)))
