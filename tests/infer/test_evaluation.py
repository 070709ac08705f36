"""How good a model is, against scikit-learn's figures and a plain loop; and the report of it."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from netkit.core.errors import DataError
from netkit.core.progress import no_progress
from netkit.data.dataset import ArrayDataSet
from netkit.images.decoder import Decoder
from netkit.infer.evaluation.corruptions import CORRUPTIONS, corrupt
from netkit.infer.evaluation.metrics import Evaluation, evaluate
from netkit.infer.runtime.session import Session
from tests.support.commands import Netkit
from tests.support.evaluations import judged


def saved(folder: Path, images: np.ndarray) -> list[str]:
    """Their paths, in the order of the images."""
    paths = [str(folder / f"{index}.png") for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[0]).save(path)
    return paths


@pytest.fixture(scope="module")
def inputs(digits_data: ArrayDataSet) -> np.ndarray:
    return digits_data.test_images.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def found(session: Session, inputs: np.ndarray, digits_data: ArrayDataSet) -> Evaluation:
    return judged(session, inputs, digits_data.test_labels, corrupt=True)


def test_shares_are_those_that_scikit_learn_finds(
    found: Evaluation, session: Session, digits_data: ArrayDataSet
) -> None:
    truth = digits_data.test_labels
    answers = session.run(digits_data.test_images)[0].argmax(axis=1)
    precision, recall, _, images = metrics.precision_recall_fscore_support(truth, answers, labels=range(10))
    assert [each.precision for each in found.classes] == pytest.approx(precision)
    assert [each.recall for each in found.classes] == pytest.approx(recall)
    assert [each.images for each in found.classes] == list(images)
    assert np.array(found.confusion).tolist() == metrics.confusion_matrix(truth, answers).tolist()
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, answers))
    assert (found.images, found.unreadable) == (355, 0)


def test_the_accuracy_is_the_one_on_the_card(found: Evaluation, session: Session) -> None:
    assert found.accuracy == pytest.approx(session.card.origin.test_accuracy, abs=1e-12)


def test_the_calibration_error_is_that_of_a_plain_loop(
    found: Evaluation, session: Session, digits_data: ArrayDataSet
) -> None:
    probabilities = session.run(digits_data.test_images)[1]
    error, images = 0.0, 0
    for number in range(15):
        chosen = [
            (float(row.max()), int(row.argmax()) == label)
            for row, label in zip(probabilities, digits_data.test_labels.tolist(), strict=True)
            if number / 15 < row.max() <= (number + 1) / 15
        ]
        if chosen:
            confidence, right = (sum(column) / len(chosen) for column in zip(*chosen, strict=True))
            error += len(chosen) / 355 * abs(confidence - right)
            images += len(chosen)
    assert images == sum(each.images for each in found.calibration) == 355
    assert found.calibration_error == pytest.approx(error, abs=1e-6)
    assert all(each.above < each.confidence <= each.up_to for each in found.calibration)


def test_mistakes_are_the_wrong_predictions_with_the_largest_cross_entropy(
    found: Evaluation, session: Session, digits_data: ArrayDataSet
) -> None:
    probabilities = session.run(digits_data.test_images)[1]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != digits_data.test_labels)
    assert 0 < len(wrong)
    true = probabilities[np.arange(len(probabilities)), digits_data.test_labels]
    expected = sorted(wrong.tolist(), key=lambda index: true[index])[:24]
    assert [each.index for each in found.mistakes] == expected
    for each in found.mistakes:
        assert each.truth == str(digits_data.test_labels[each.index])
        assert each.answer == str(probabilities[each.index].argmax())


@pytest.mark.parametrize("name", ["rotate", "impulse_noise", "stripe"])
def test_corrupted_accuracy_is_that_on_corrupted_images(
    found: Evaluation, session: Session, digits_data: ArrayDataSet, name: str
) -> None:
    images = np.stack([corrupt(image, name) for image in digits_data.test_images])
    right = session.run(images)[0].argmax(axis=1) == digits_data.test_labels
    assert found.corrupted[name] == pytest.approx(right.mean())
    assert list(found.corrupted) == list(CORRUPTIONS)
    assert found.mean_corrupted == pytest.approx(sum(found.corrupted.values()) / 15)


def test_what_cannot_be_read_is_counted_apart_and_costs_no_other_its_answer(
    session: Session, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    paths = saved(tmp_path, digits_data.test_images[:200])
    truth = digits_data.test_labels[:200]
    whole = judged(session, paths, truth)
    for index in range(0, 200, 10):
        Path(paths[index]).write_text("no picture")
    part = judged(session, paths, truth, corrupt=True)
    kept = np.arange(200) % 10 != 0
    answers = session.run(digits_data.test_images[:200][kept])[0].argmax(axis=1)
    assert (part.images, part.unreadable, whole.unreadable) == (180, 20, 0)
    assert part.accuracy == pytest.approx((answers == truth[kept]).mean())
    rotated = np.stack([corrupt(image, "rotate") for image in digits_data.test_images[:200][kept]])
    right = session.run(rotated)[0].argmax(axis=1) == truth[kept]
    assert part.corrupted["rotate"] == pytest.approx(right.mean())
    assert "; 20 more could not be read" in str(part)
    with pytest.raises(DataError, match="some: none of its 2 images can be read"):
        judged(session, [paths[0], paths[10]], truth[[0, 10]])


@dataclass(frozen=True)
class NotingDecoder(Decoder):
    """Appends a line to a file for each image that it decodes, in whichever process."""

    note: Path = field(kw_only=True)

    def __call__(self, image: str | np.ndarray) -> np.ndarray:
        with open(self.note, "a") as file:
            file.write(f"{image}\n")
        return super().__call__(image)


def test_each_file_is_decoded_once_for_all_corruptions(
    session: Session, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    paths = saved(tmp_path, digits_data.test_images[:20])
    decoder = NotingDecoder(session.card.input, note=tmp_path / "decoded")
    evaluate(
        session, paths, digits_data.test_labels[:20], data="some", decoder=decoder,
        batch_size=64, corrupt=True, advance=no_progress,
    )  # fmt: skip
    assert sorted((tmp_path / "decoded").read_text().splitlines()) == sorted(paths)


def test_a_class_without_images_or_without_answers_has_no_share(session: Session, digits_data: ArrayDataSet) -> None:
    only = digits_data.test_labels == 3
    found = judged(session, digits_data.test_images.transpose(0, 2, 3, 1)[only], digits_data.test_labels[only])
    shares = {each.label: (each.images, each.recall) for each in found.classes}
    assert shares["5"] == (0, None)
    assert shares["3"][0] == only.sum()
    answers = np.array(found.confusion).sum(axis=0).tolist()
    unnamed = [each for each, count in zip(found.classes, answers, strict=True) if not count]
    assert unnamed and all(each.precision is None for each in unnamed)


def test_the_command_prints_what_training_reached(netkit: Netkit, workplace: Path, tmp_path: Path) -> None:
    run = workplace / "runs/residual"
    with open(run / "metrics.csv") as file:
        *_, last = csv.DictReader(file)
    done = netkit("evaluate", run / "model.onnx")
    assert done.returncode == 0, done.stderr
    assert f"digits: 355 images, accuracy {float(last['test_accuracy']):.2%}, calibration error " in done.stdout
    assert done.stderr.splitlines()[-1].endswith("--out report.html")
    as_json = netkit("evaluate", run / "model.onnx", "--data", "digits", "--json", "--corrupt")
    answer = json.loads(as_json.stdout)
    assert answer["accuracy"] == pytest.approx(float(last["test_accuracy"]), abs=1e-12)
    assert answer["mean_corrupted"] == pytest.approx(sum(answer["corrupted"].values()) / 15)
    assert len(answer["corrupted"]) == 15 and "warning" not in as_json.stderr


def test_it_runs_where_there_is_no_torch_and_leaves_a_report(workplace: Path, tmp_path: Path, netkit: Netkit) -> None:
    assert netkit("sample", "images", "--data", "digits", "--count", "60").returncode == 0
    (tmp_path / "images/7/damaged.png").write_text("no picture")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'sklearn', 'matplotlib')))\n"
        "from netkit.cli import cli; cli(sys.argv[1:])"
    )
    arguments = [
        "evaluate",
        str(workplace / "runs/residual/model.onnx"),
        "--data",
        "images",
        "--out",
        "report.html",
        "--corrupt",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "images: 60 images, accuracy " in done.stdout and "; 1 more could not be read" in done.stdout
    assert "report.html: the report" in done.stderr
    assert "images/7/damaged.png: cannot be read as one of PNG" in done.stderr
    assert "1</b>unreadable images" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "report.pdf"], "--out report.pdf: a report is written as .html"),
        (["--out", "nowhere/report.html"], "nowhere/report.html: there is no folder nowhere"),
        (["--data", "nothing/"], "nothing/: no such folder"),
    ],
)
def test_wrong_use_is_told_in_a_line(netkit: Netkit, workplace: Path, arguments: list[str], told: str) -> None:
    done = netkit("evaluate", workplace / "runs/residual/model.onnx", *arguments)
    assert told in done.stderr and "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
