"""Page: an evaluation as one HTML file, with its pictures in it, which asks nothing of any other place."""

import base64
import io
from collections.abc import Iterable, Iterator
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core.errors import ImageError
from netkit.images.decoder import Decoder, pillow_silenced
from netkit.infer.evaluation.corruptions import corrupted
from netkit.infer.evaluation.metrics import Evaluation, Inputs

EXAMPLES = 6  # pictures of each corruption
SHOWN = 56  # pixels a side; larger pictures are made that small
ROOM_FOR_NUMBERS = 30  # classes; of more, a table of pairs tells more than a matrix
PAIRS = 20
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; --wrong: 224 120 40; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.from { opacity: .7; overflow-wrap: anywhere; margin-top: .3rem; }
.figures { display: flex; flex-wrap: wrap; gap: 2.5rem; margin: 1.5rem 0; }
.figures b { display: block; font-size: 1.7rem; font-weight: 600; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
th, td { padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
.matrix td { text-align: center; min-width: 2rem; padding: .2rem; border: 1px solid var(--line); }
.matrix th { padding: .2rem .5rem; border: 0; text-align: center; } .scroll { overflow-x: auto; }
.share { display: inline-block; min-width: 4.2rem; }
.bar { display: inline-block; width: 10rem; height: .6rem; background: var(--line); }
.bar i { display: block; height: 100%; background: var(--bar); }
img { image-rendering: pixelated; vertical-align: middle; margin-right: 2px; background: #888; }
.mistakes { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 7.5rem; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; } svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
"""


def page(evaluation: Evaluation, inputs: Inputs, truth: NDArray[np.int64], decoder: Decoder) -> str:
    """The evaluation of these inputs, decoded by `decoder`, as HTML."""
    parts = [_head(evaluation), _classes(evaluation), _confusion(evaluation), _calibration(evaluation)]
    with pillow_silenced():
        if evaluation.corrupted:
            parts.append(_corruptions(evaluation, list(_examples(inputs, truth, decoder))))
        if evaluation.mistakes:
            parts.append(_mistakes(evaluation, inputs, decoder))
    title = escape(f"{evaluation.model} on {evaluation.data}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{STYLE}</style></head><body>
{"".join(parts)}
</body></html>
"""


def _head(found: Evaluation) -> str:
    figures = [("accuracy", f"{found.accuracy:.2%}"), ("images", f"{found.images:,}")]
    if found.mean_corrupted is not None:
        figures.insert(1, ("mean accuracy, corrupted", f"{found.mean_corrupted:.2%}"))
    figures.append(("calibration error (ECE)", f"{found.calibration_error:.4f}"))
    if found.unreadable:
        figures.append(("could not be read", f"{found.unreadable:,}"))
    told = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures)
    source = f"{found.arch}, on {found.provider}; SHA-256 of the model {found.model_sha256}"
    return (
        f"<h1>{escape(found.model)} on {escape(found.data)}</h1><p class=from>{escape(source)}</p>"
        f"<div class=figures>{told}</div>"
    )


def _classes(found: Evaluation) -> str:
    rows = [
        (escape(each.label), f"{each.images:,}", _share(each.precision), _share(each.recall)) for each in found.classes
    ]
    return f"<h2>Classes</h2>{_table(('class', 'images', 'precision', 'recall'), rows)}"


def _confusion(found: Evaluation) -> str:
    labels = [escape(each.label) for each in found.classes]
    counts = np.array(found.confusion)
    mistakes = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    heading = "<h2>Which class gets which answer</h2>"
    if len(labels) > ROOM_FOR_NUMBERS:
        order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
        pairs = ((int(at) for at in np.unravel_index(each, counts.shape)) for each in order)
        rows = [
            (labels[row], labels[column], f"{count:,}") for row, column in pairs if (count := mistakes[row, column])
        ]
        return f"{heading}{_table(('class', 'answer', 'images'), rows)}"
    most = max(1, int(mistakes.max()))
    header = "".join(f"<th>{label}</th>" for label in labels)
    body = "".join(
        f"<tr><th>{label}</th>{''.join(_cell(count, wrong / most) for count, wrong in zip(row, off, strict=True))}</tr>"
        for label, row, off in zip(labels, counts.tolist(), mistakes.tolist(), strict=True)
    )
    return (
        f"{heading}<p>Rows are classes, columns answers; mistakes are coloured.</p>"
        f"<div class=scroll><table class=matrix><tr><th></th>{header}</tr>{body}</table></div>"
    )


def _cell(count: int, share: float) -> str:
    style = f' style="background: rgb(var(--wrong) / {0.15 + 0.7 * share:.2f})"' if share else ""
    return f"<td{style}>{count or ''}</td>"


def _calibration(found: Evaluation) -> str:
    side, edge = 260, 36

    def at(across: float, up: float) -> tuple[float, float]:
        return round(edge + across * side, 1), round(10 + (1 - up) * side, 1)

    bars = []
    for each in found.calibration:
        (left, top), (right, bottom) = at(each.above, each.accuracy), at(each.up_to, 0)
        told = f"probability {each.confidence:.3f}, right {each.accuracy:.3f}, of {each.images:,} images"
        bars.append(
            f'<rect x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="#4a7fb5" '
            f'stroke="#fff"><title>{told}</title></rect>'
        )
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    marks = "".join(
        f'<text x="{at(value, 0)[0]}" y="{y0 + 14}" text-anchor="middle">{value}</text>'
        f'<text x="{x0 - 6}" y="{at(0, value)[1] + 4}" text-anchor="end">{value}</text>'
        for value in (0, 0.5, 1)
    )
    rows = [
        (f"{each.above:.3f} to {each.up_to:.3f}", f"{each.images:,}", f"{each.confidence:.4f}", f"{each.accuracy:.4f}")
        for each in found.calibration
    ]
    return (
        "<h2>Whether probabilities are to be believed</h2><p>Each bar is the share of right answers among those with "
        "such a probability. On the line, both agree.</p><div class=figures>"
        f'<svg width="{side + edge + 20}" height="{side + 40}" role="img"><title>calibration</title>{"".join(bars)}'
        f'<rect x="{x0}" y="{y1}" width="{side}" height="{side}" fill="none" stroke="#888"/>'
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#888" stroke-dasharray="4"/>{marks}</svg>'
        f"<div>{_table(('probability', 'images', 'in the mean', 'right'), rows)}</div></div>"
    )


def _corruptions(found: Evaluation, pictures: list[NDArray[np.uint8]]) -> str:
    rows = [("none", _images(pictures), _share(found.accuracy), "")]
    rows += [
        (name.replace("_", " "), _images(corrupted(each, name) for each in pictures), _share(accuracy),
         f"{100 * (accuracy - found.accuracy):+.2f}")
        for name, accuracy in found.corrupted.items()
    ]  # fmt: skip
    header = ("corruption", "examples", "accuracy", "points")
    return f"<h2>Accuracy when images are corrupted</h2>{_table(header, rows)}"


def _mistakes(found: Evaluation, inputs: Inputs, decoder: Decoder) -> str:
    figures = (
        f"<figure>{_picture(inputs[each.index], decoder)}<figcaption>"
        f"{escape(each.truth)} → {escape(each.answer)} ({each.probability:.0%})<br>"
        f"{escape(each.path or f'#{each.index}')}</figcaption></figure>"
        for each in found.mistakes
    )
    return (
        "<h2>The mistakes with the highest probability</h2><p>Each with its class and the answer.</p>"
        f"<div class=mistakes>{''.join(figures)}</div>"
    )


def _picture(image: str | NDArray[np.uint8], decoder: Decoder) -> str:
    try:
        return _image(decoder(image), 2 * SHOWN)
    except ImageError:  # it has gone since it was judged
        return ""


def _examples(inputs: Inputs, truth: NDArray[np.int64], decoder: Decoder) -> Iterator[NDArray[np.uint8]]:
    """The first image that can be read of each of the first classes."""
    for label in np.unique(truth)[:EXAMPLES]:
        for index in np.flatnonzero(truth == label).tolist():
            try:
                yield decoder(inputs[index])
                break
            except ImageError:
                continue


def _images(pictures: Iterable[NDArray[np.uint8]]) -> str:
    return "".join(_image(each, SHOWN) for each in pictures)


def _image(pixels: NDArray[np.uint8], side: int) -> str:
    channels, height, width = pixels.shape
    image = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
    image.thumbnail((2 * side, 2 * side))
    content = io.BytesIO()
    image.save(content, "PNG")
    scale = side / max(height, width)
    return (
        f'<img alt="" width="{max(1, round(width * scale))}" height="{max(1, round(height * scale))}" '
        f'src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
    )


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f'<span class=share>{value:.2%}</span><span class=bar><i style="width: {value:.2%}"></i></span>'


def _table(header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
