"""Evaluation, against scikit-learn and plain loops; and the command `netkit evaluate`."""

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
from netkit.infer.evaluation.metrics import evaluate
from netkit.infer.evaluation.result import Evaluation
from netkit.infer.pipeline.batches import Input
from netkit.infer.runtime.session import Session
from tests.support.commands import Netkit
from tests.support.evaluations import evaluate_with_defaults


def save_images(folder: Path, images: np.ndarray) -> list[str]:
    """Save images (N, channels, height, width) as PNG files; return their paths in order."""
    paths = [str(folder / f"{index}.png") for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[0]).save(path)
    return paths


@pytest.fixture(scope="module")
def inputs(digits_data: ArrayDataSet) -> np.ndarray:
    return digits_data.test_images.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def evaluation(session: Session, inputs: np.ndarray, digits_data: ArrayDataSet) -> Evaluation:
    return evaluate_with_defaults(session, inputs, digits_data.test_labels, corrupt=True)


def test_accuracy_precision_and_recall_equal_those_of_scikit_learn(
    evaluation: Evaluation, session: Session, digits_data: ArrayDataSet
) -> None:
    labels = digits_data.test_labels
    predictions = session.run(digits_data.test_images)[0].argmax(axis=1)
    precision, recall, _, images = metrics.precision_recall_fscore_support(labels, predictions, labels=range(10))
    assert [score.precision for score in evaluation.classes] == pytest.approx(precision)
    assert [score.recall for score in evaluation.classes] == pytest.approx(recall)
    assert [score.images for score in evaluation.classes] == list(images)
    assert np.array(evaluation.confusion).tolist() == metrics.confusion_matrix(labels, predictions).tolist()
    assert evaluation.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert (evaluation.images, evaluation.unreadable) == (355, 0)


def test_the_accuracy_equals_that_on_the_model_card(evaluation: Evaluation, session: Session) -> None:
    assert evaluation.accuracy == pytest.approx(session.card.origin.test_accuracy, abs=1e-12)


def test_the_calibration_error_equals_that_of_a_plain_loop(
    evaluation: Evaluation, session: Session, digits_data: ArrayDataSet
) -> None:
    probabilities = session.run(digits_data.test_images)[1]
    error, images = 0.0, 0
    for number in range(15):
        members = [
            (float(row.max()), int(row.argmax()) == label)
            for row, label in zip(probabilities, digits_data.test_labels.tolist(), strict=True)
            if number / 15 < row.max() <= (number + 1) / 15
        ]
        if members:
            confidence, accuracy = (sum(column) / len(members) for column in zip(*members, strict=True))
            error += len(members) / 355 * abs(confidence - accuracy)
            images += len(members)
    assert images == sum(bin_.images for bin_ in evaluation.calibration.bins) == 355
    assert evaluation.calibration.ece.value == pytest.approx(error, abs=1e-6)
    assert all(bin_.above < bin_.confidence <= bin_.up_to for bin_ in evaluation.calibration.bins)


def test_mistakes_are_the_wrong_predictions_with_the_largest_cross_entropy(
    evaluation: Evaluation, session: Session, digits_data: ArrayDataSet
) -> None:
    probabilities = session.run(digits_data.test_images)[1]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != digits_data.test_labels)
    assert 0 < len(wrong)
    true_probabilities = probabilities[np.arange(len(probabilities)), digits_data.test_labels]
    expected = sorted(wrong.tolist(), key=lambda index: true_probabilities[index])[:24]
    assert [mistake.index for mistake in evaluation.mistakes] == expected
    for mistake in evaluation.mistakes:
        assert mistake.truth == str(digits_data.test_labels[mistake.index])
        assert mistake.answer == str(probabilities[mistake.index].argmax())


@pytest.mark.parametrize("name", ["rotate", "impulse_noise", "stripe"])
def test_accuracy_under_corruption_equals_that_on_corrupted_images(
    evaluation: Evaluation, session: Session, digits_data: ArrayDataSet, name: str
) -> None:
    images = np.stack([corrupt(image, name) for image in digits_data.test_images])
    correct = session.run(images)[0].argmax(axis=1) == digits_data.test_labels
    assert evaluation.corrupted[name] == pytest.approx(correct.mean())
    assert list(evaluation.corrupted) == list(CORRUPTIONS)
    assert evaluation.mean_corrupted == pytest.approx(sum(evaluation.corrupted.values()) / 15)


def test_unreadable_images_are_counted_separately_and_do_not_affect_the_others(
    session: Session, digits_data: ArrayDataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = save_images(tmp_path, digits_data.test_images[:200])
    labels = digits_data.test_labels[:200]
    all_readable = evaluate_with_defaults(session, paths, labels)
    for index in range(0, 200, 10):
        Path(paths[index]).write_text("not an image")
    evaluation = evaluate_with_defaults(session, paths, labels, corrupt=True)
    kept = np.arange(200) % 10 != 0
    predictions = session.run(digits_data.test_images[:200][kept])[0].argmax(axis=1)
    assert (evaluation.images, evaluation.unreadable, all_readable.unreadable) == (180, 20, 0)
    assert evaluation.accuracy == pytest.approx((predictions == labels[kept]).mean())
    rotated = np.stack([corrupt(image, "rotate") for image in digits_data.test_images[:200][kept]])
    correct = session.run(rotated)[0].argmax(axis=1) == labels[kept]
    assert evaluation.corrupted["rotate"] == pytest.approx(correct.mean())
    assert "; 20 more could not be read" in str(evaluation)
    for path in paths[:200:10]:
        Path(path).unlink()
    caplog.clear()
    evaluate_with_defaults(session, paths, labels)
    (message,) = [message for message in caplog.messages if Path(paths[0]).name in message]
    assert ": 20 files do not exist: " in message
    with pytest.raises(DataError, match="some: none of its 2 images can be read"):
        evaluate_with_defaults(session, [paths[0], paths[10]], labels[[0, 10]])


@dataclass(frozen=True)
class RecordingDecoder(Decoder):
    """Appends a line to the file `log` for each image that it decodes, in any process."""

    log: Path = field(kw_only=True)

    def __call__(self, image: Input) -> np.ndarray:
        assert isinstance(image, str)
        with open(self.log, "a") as file:
            file.write(f"{image}\n")
        return super().__call__(image)


def test_each_file_is_decoded_once_for_all_corruptions(
    session: Session, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    paths = save_images(tmp_path, digits_data.test_images[:20])
    decoder = RecordingDecoder(session.card.input, log=tmp_path / "decoded")
    evaluate(
        session, paths, digits_data.test_labels[:20], data="some", decoder=decoder,
        batch_size=64, corrupt=True, advance=no_progress,
    )  # fmt: skip
    assert sorted((tmp_path / "decoded").read_text().splitlines()) == sorted(paths)


def test_recall_needs_an_image_of_the_class_and_precision_a_prediction(
    session: Session, digits_data: ArrayDataSet
) -> None:
    only = digits_data.test_labels == 3
    inputs = digits_data.test_images.transpose(0, 2, 3, 1)
    evaluation = evaluate_with_defaults(session, inputs[only], digits_data.test_labels[only])
    scores = {score.label: (score.images, score.recall) for score in evaluation.classes}
    assert scores["5"] == (0, None)
    assert scores["3"][0] == only.sum()
    predictions = np.array(evaluation.confusion).sum(axis=0).tolist()
    never_predicted = [score for score, count in zip(evaluation.classes, predictions, strict=True) if not count]
    assert never_predicted and all(score.precision is None for score in never_predicted)


def test_the_command_prints_the_accuracy_of_training(netkit: Netkit, workspace: Path, tmp_path: Path) -> None:
    run = workspace / "runs/residual"
    with open(run / "metrics.csv") as file:
        *_, last = csv.DictReader(file)
    done = netkit("evaluate", run / "model.onnx")
    assert done.returncode == 0, done.stderr
    accuracy = f"{float(last['test_accuracy']):.2%}"
    assert f"digits: 355 images, accuracy {accuracy}, expected calibration error (ECE) " in done.stdout
    assert done.stderr.splitlines()[-1].endswith("--out report.html")
    as_json = netkit("evaluate", run / "model.onnx", "--data", "digits", "--json", "--corrupt")
    fields = json.loads(as_json.stdout)
    assert fields["accuracy"] == pytest.approx(float(last["test_accuracy"]), abs=1e-12)
    assert fields["mean_corrupted"] == pytest.approx(sum(fields["corrupted"].values()) / 15)
    assert len(fields["corrupted"]) == 15 and "warning" not in as_json.stderr


def test_the_command_writes_a_report_without_torch(workspace: Path, tmp_path: Path, netkit: Netkit) -> None:
    assert netkit("sample", "images", "--data", "digits", "--count", "60").returncode == 0
    (tmp_path / "images/7/damaged.png").write_text("not an image")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'sklearn', 'matplotlib')))\n"
        "from netkit.cli import cli; cli(sys.argv[1:])"
    )
    model = str(workspace / "runs/residual/model.onnx")
    options = ("--data", "images", "--out", "report.html", "--corrupt")
    command = [sys.executable, "-c", program, "evaluate", model, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "images: 60 images, accuracy " in done.stdout and "; 1 more could not be read" in done.stdout
    assert "report.html: report written" in done.stderr
    assert "images/7/damaged.png: a text file" in done.stderr
    assert "1</b>unreadable images" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "report.pdf"], "--out report.pdf: the name of a report must end in .html"),
        (["--out", "nowhere/report.html"], "nowhere/report.html: the folder nowhere does not exist"),
        (["--data", "nothing/"], "nothing/: no such folder"),
    ],
)
def test_usage_errors_print_a_message_and_exit_with_2(
    netkit: Netkit, workspace: Path, arguments: list[str], message: str
) -> None:
    done = netkit("evaluate", workspace / "runs/residual/model.onnx", *arguments)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
