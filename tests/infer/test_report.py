"""The HTML report of an evaluation: its content, the escaping of names, and screenshots by a browser."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.core.model_card import Input
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.infer.evaluation.report import render, write
from netkit.infer.evaluation.result import ClassScore, Evaluation
from netkit.infer.runtime.session import Session
from tests.support.evaluations import evaluate_with_defaults

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = """<img src=x onerror="alert(1)">&'\n\x1b[2J""" + os.fsdecode(b"\xff")
ESCAPED = r"&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;&#39;\n\x1b[2J\udcff"


@pytest.fixture(scope="module")
def inputs(digits_data: ArrayDataSet) -> np.ndarray:
    return digits_data.test_images.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def evaluation(session: Session, inputs: np.ndarray, digits_data: ArrayDataSet) -> Evaluation:
    return evaluate_with_defaults(session, inputs, digits_data.test_labels, corrupt=True)


class Page(HTMLParser):
    """Parses a page, checks that its elements nest, and collects the text and the values of src and href."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, str | None]]") -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_is_self_contained(
    evaluation: Evaluation, session: Session, inputs: np.ndarray, digits_data: ArrayDataSet
) -> None:
    html = render(evaluation, inputs, digits_data.test_labels, Decoder(session.card.input))
    page = Page(html)
    assert len(page.sources) == 16 * 6 + len(evaluation.mistakes)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for text in (f"{evaluation.accuracy:.2%}", "canny edges", f"{evaluation.calibration.ece.value:.4f}"):
        assert text in page.text
    assert evaluation.model_sha256 in page.text
    assert """content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">""" in html
    assert not re.search(r"https?://|<script", html)


def render_numbers(evaluation: Evaluation) -> str:
    """Render the report without images."""
    without_images = replace(evaluation, corrupted={}, mistakes=())
    return render(without_images, [], np.zeros(0, np.int64), Decoder(Input(1, 28, 28)))


def test_the_confusion_matrix_shows_every_count(evaluation: Evaluation) -> None:
    html = render_numbers(evaluation)
    _, _, table = html.partition('<table class="matrix">')
    rows = table.partition("</table>")[0].split("<tr>")[2:]
    cells = [[int(count or 0) for count in re.findall(r"<td[^>]*>(\d*)</td>", row)] for row in rows]
    assert cells == [list(row) for row in evaluation.confusion]


@pytest.mark.parametrize(
    ("lowest", "start"), [(0.992, 0.99), (1.0, 0.99), (0.98, 0.95), (0.75, 0.5), (0.5, 0.0), (0.0, 0.0)]
)
def test_bars_start_at_a_printed_value_just_below_the_lowest_score(
    evaluation: Evaluation, lowest: float, start: float
) -> None:
    classes = (ClassScore("a", 1000, lowest, 0.999), ClassScore("b", 1000, None, 1.0))
    html = render_numbers(replace(evaluation, classes=classes, confusion=((999, 1), (0, 1000))))
    table = html.partition("<h2>Classes</h2>")[2].partition("</table>")[0]
    widths = [float(width) for width in re.findall(r'<i style="width: (.*?)%">', table)]
    assert widths == pytest.approx([100 * (score - start) / (1 - start) for score in (lowest, 0.999, 1.0)], abs=0.006)
    assert widths[0] >= 20 or lowest < 0.6
    assert re.findall(r"<span>(\d+%)</span>", table) == [f"{start:.0%}", "100%"] * 2


def test_a_report_on_many_classes_lists_the_confused_pairs(evaluation: Evaluation) -> None:
    names = [f"class {number}" for number in range(40)]
    confusion = 5 * np.eye(40, dtype=int)
    confusion[3, 7], confusion[20, 1] = 2, 9
    many = replace(
        evaluation,
        classes=tuple(ClassScore(name, 5, 1.0, 1.0) for name in names),
        confusion=tuple(map(tuple, confusion.tolist())),
    )
    text = Page(render_numbers(many)).text.partition("Confusion matrix")[2].partition("Calibration")[0]
    assert re.findall(r"class \d+class \d+\d", text) == ["class 20class 19", "class 3class 72"]


def test_names_are_escaped(session: Session, digits_data: ArrayDataSet, tmp_path: Path) -> None:
    path = tmp_path / HOSTILE
    Image.fromarray(digits_data.test_images[0, 0]).save(path, "PNG")
    labels = (digits_data.test_labels[:1] + 1) % 10
    evaluation = evaluate_with_defaults(session, [str(path)], labels)
    hostile = replace(
        evaluation,
        model=HOSTILE,
        data=HOSTILE,
        arch=HOSTILE,
        classes=tuple(replace(score, label=HOSTILE) for score in evaluation.classes),
        mistakes=tuple(replace(mistake, truth=HOSTILE, answer=HOSTILE) for mistake in evaluation.mistakes),
    )
    report = tmp_path / "report.html"
    write(report, hostile, [str(path)], labels, Decoder(session.card.input))
    html = report.read_text(encoding="utf-8")
    assert Page(html).sources[0].startswith("data:image/png")
    assert html.count(ESCAPED) == 5 + 3 * 10 + 3  # title and heading, classes in the table and the matrix, mistake
    assert "<img src=x" not in html and "\x1b" not in html


def test_a_mistake_whose_file_was_deleted_has_no_image(
    session: Session, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    path = tmp_path / "deleted.png"
    Image.fromarray(digits_data.test_images[0, 0]).save(path)
    labels = (digits_data.test_labels[:1] + 1) % 10
    evaluation = evaluate_with_defaults(session, [str(path)], labels)
    path.unlink()
    page = Page(render(evaluation, [str(path)], labels, Decoder(session.card.input)))
    assert page.sources == [] and "deleted.png" in page.text


def test_only_a_report_needs_jinja2(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['jinja2'] = None\n"
        "import netkit.infer.evaluation.report\n"
        "from netkit.cli import cli; cli(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "evaluate", "missing.onnx", "--out", "report.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    message = "jinja2 is not installed; install netkit's extra [report]: in a checkout of netkit, run: pip install"
    assert done.stderr == f"netkit: {message} '.[report]'\n"
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(("scheme", "flags"), [("light", []), ("dark", ["--force-dark-mode"])])
def test_a_browser_draws_the_report(
    evaluation: Evaluation, session: Session, inputs: np.ndarray, digits_data: ArrayDataSet,
    scheme: str, flags: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    """The screenshots are kept in tests/artifacts for inspection."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    ARTIFACTS.mkdir(exist_ok=True)
    report, screenshot = ARTIFACTS / "report.html", ARTIFACTS / f"report-{scheme}.png"
    write(report, evaluation, inputs, digits_data.test_labels, Decoder(session.card.input))
    screenshot.unlink(missing_ok=True)
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         f"--user-data-dir={tmp_path}", "--window-size=1100,3600", f"--screenshot={screenshot}", *flags,
         report.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    pixels = np.asarray(Image.open(screenshot).convert("RGB")).astype(int)
    assert pixels.shape == (3600, 1100, 3)
    assert (pixels[0, 0].mean() < 128) == (scheme == "dark")
    bars = np.abs(pixels - [0x4A, 0x7F, 0xB5]).max(axis=2) < 8
    assert bars.sum() > 20_000
