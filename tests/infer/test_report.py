"""The report of an evaluation: all of it on one page, which asks for nothing, as a browser shows it."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netkit.core.model_card import Input
from netkit.data.dataset import HeldDataSet
from netkit.images.decoder import Decoder
from netkit.infer.evaluation.metrics import ClassScore, Evaluation
from netkit.infer.evaluation.report import page
from netkit.infer.runtime.session import Session
from tests.support.evaluations import judged

ARTEFACTS = Path(__file__).parents[1] / "artefacts"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def inputs(digits_data: HeldDataSet) -> np.ndarray:
    return digits_data.test_images.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def found(session: Session, inputs: np.ndarray, digits_data: HeldDataSet) -> Evaluation:
    return judged(session, inputs, digits_data.test_labels, corrupt=True)


class Pictures(HTMLParser):
    """Collects tags, the pictures' sources, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, str | None]]") -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_holds_all_and_asks_for_nothing_from_elsewhere(
    found: Evaluation, session: Session, inputs: np.ndarray, digits_data: HeldDataSet
) -> None:
    text = page(found, inputs, digits_data.test_labels, Decoder(session.card.input))
    seen = Pictures()
    seen.feed(text)
    assert seen.open == []
    assert len(seen.sources) == 16 * 6 + len(found.mistakes)
    assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
    for each in (f"{found.accuracy:.2%}", "canny edges", f"{found.calibration_error:.4f}", found.model_sha256):
        assert each in seen.text
    assert not re.search(r"https?://|<script", text)


def test_of_many_classes_a_report_lists_the_pairs_that_are_mistaken(found: Evaluation) -> None:
    names = [f"class {number}" for number in range(40)]
    confusion = 5 * np.eye(40, dtype=int)
    confusion[3, 7], confusion[20, 1] = 2, 9
    many = replace(
        found,
        classes=tuple(ClassScore(name, 5, 1.0, 1.0) for name in names),
        confusion=tuple(map(tuple, confusion.tolist())),
        corrupted={},
        mistakes=(),
    )
    seen = Pictures()
    seen.feed(page(many, [], np.zeros(0, np.int64), Decoder(Input(1, 28, 28))))
    _, _, text = seen.text.partition("Which class gets which answer")
    text, _, _ = text.partition("Whether probabilities")
    assert text == "classanswerimagesclass 20class 19class 3class 72"


def test_names_cannot_break_out_of_a_report(session: Session, digits_data: HeldDataSet, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.fromarray(digits_data.test_images[0, 0]).save(path)
    wrong = np.array([(int(digits_data.test_labels[0]) + 1) % 10])
    found = judged(session, [str(path)], wrong)
    assert len(found.mistakes) == 1
    text = page(found, [str(path)], wrong, Decoder(session.card.input))
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text


def test_a_browser_shows_the_report(
    found: Evaluation, session: Session, inputs: np.ndarray, digits_data: HeldDataSet
) -> None:
    """The picture stays in tests/artefacts, to be looked at."""
    browser = next((there for name in BROWSERS if (there := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    ARTEFACTS.mkdir(exist_ok=True)
    report, picture = ARTEFACTS / "report.html", ARTEFACTS / "report.png"
    report.write_text(page(found, inputs, digits_data.test_labels, Decoder(session.card.input)))
    picture.unlink(missing_ok=True)
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,3600",
         f"--screenshot={picture}", report.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    shot = np.asarray(Image.open(picture).convert("RGB"))
    assert shot.shape == (3600, 1100, 3)
    blue = (np.abs(shot.astype(int) - np.array([0x4A, 0x7F, 0xB5])).max(axis=2) < 8).sum()
    assert blue > 20_000  # bars were drawn
