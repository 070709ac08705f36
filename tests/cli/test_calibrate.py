"""`netkit calibrate` writes a model whose probabilities fit the images, with the same labels."""

import csv
import json
from pathlib import Path

import pytest

from tests.support.commands import Netkit

DIGITS = ("--data", "digits")


@pytest.fixture
def model_path(workspace: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes((workspace / "runs/residual/model.onnx").read_bytes())
    return path


def test_the_new_model_has_better_probabilities_and_the_same_labels(
    netkit: Netkit, model_path: Path, tmp_path: Path
) -> None:
    netkit("sample", "images", *DIGITS)
    done = netkit("calibrate", "model.onnx", *DIGITS)
    assert done.returncode == 0, done.stderr
    header, before, after = (line.split() for line in done.stdout.splitlines()[:3])
    assert header == ["temperature", "ECE", "NLL", "Brier", "score"] and before[0] == "1" != after[0]
    assert f"model.calibrated.onnx: temperature {after[0]}, fitted to 355 images" in done.stdout
    assert done.stderr.endswith("next: netkit infer images/ --model model.calibrated.onnx\n")
    assert "calibrated on digits" in netkit("verify", "model.calibrated.onnx").stdout
    assert "digits: calibrating on the 355 test images; evaluate on other images" in done.stderr
    rows = {}
    for name in ("model", "model.calibrated"):
        assert netkit("infer", "images", "--model", f"{name}.onnx", "--out", "out.csv").returncode == 0
        rows[name] = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    for old, new in zip(*rows.values(), strict=True):
        assert (old["path"], old["label"]) == (new["path"], new["label"]) and old["probability"] != new["probability"]


def test_evaluate_reports_the_calibration_before_and_after(netkit: Netkit, model_path: Path) -> None:
    (plain,) = map(json.loads, netkit("evaluate", "model.onnx", *DIGITS, "--json").stdout.splitlines())
    assert plain["uncalibrated"] is None
    assert netkit("calibrate", "model.onnx", *DIGITS).returncode == 0
    (row,) = map(json.loads, netkit("evaluate", "model.calibrated.onnx", *DIGITS, "--json").stdout.splitlines())
    for name in ("ece", "nll", "brier"):
        assert row["uncalibrated"][name] == pytest.approx(plain["calibration"][name], abs=1e-6)
    assert row["accuracy"] == plain["accuracy"]
    assert row["calibration"]["nll"]["value"] < row["uncalibrated"]["nll"]["value"]
    table = netkit("evaluate", "model.calibrated.onnx", *DIGITS, "--out", "report.html").stdout
    assert len([line for line in table.splitlines() if "(" in line and " to " in line]) == 2
    page = (model_path.parent / "report.html").read_text()
    assert "without calibration" in page and page.count("<title>Reliability diagram</title>") == 2


def test_the_calibration_is_repeatable_and_starts_from_the_logits(netkit: Netkit, model_path: Path) -> None:
    for source, out in (("model.onnx", "a.onnx"), ("model.onnx", "b.onnx"), ("a.onnx", "c.onnx")):
        assert netkit("calibrate", source, *DIGITS, "--out", out, "--json").returncode == 0
    a, b, c = (model_path.with_name(f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b != c  # c names the hash of a
    evaluations = [netkit("evaluate", name, *DIGITS, "--json").stdout for name in ("a.onnx", "c.onnx")]
    first, second = ({**json.loads(text), "model": "", "model_sha256": ""} for text in evaluations)
    assert first == second


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            (*DIGITS, "--out", "model.onnx"),
            2,
            "model.onnx: the output file is the same file as the input model; pass another path",
        ),
        ((*DIGITS, "--out", "new.bin"), 2, "new.bin: the name of an ONNX file must end in .onnx"),
        (("--data", "few"), 1, "few: has 10 images to calibrate on; at least 100 are needed"),
    ],
)
def test_wrong_usage_names_the_cause_and_writes_nothing(
    netkit: Netkit, model_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    netkit("sample", "few", *DIGITS, "--count", "10")
    before = sorted(model_path.parent.iterdir())
    done = netkit("calibrate", "model.onnx", *options)
    assert (done.returncode, sorted(model_path.parent.iterdir())) == (code, before), done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_an_unreadable_image_is_left_out_and_gives_the_exit_code_1(netkit: Netkit, model_path: Path) -> None:
    netkit("sample", "photos", *DIGITS)
    (model_path.parent / "photos/0/damaged.png").write_bytes(b"not an image")
    done = netkit("calibrate", "model.onnx", "--data", "photos", "--json")
    assert done.returncode == 1 and "photos/0/damaged.png" in done.stderr, done.stderr
    row = json.loads(done.stdout)
    assert (row["path"], row["images"], row["unreadable"]) == ("model.calibrated.onnx", 355, 1)


def test_validation_images_come_before_test_images(netkit: Netkit, model_path: Path, tmp_path: Path) -> None:
    for split, count in (("val", 120), ("test", 130)):
        netkit("sample", f"photos/{split}", *DIGITS, "--count", str(count))
    done = netkit("calibrate", "model.onnx", "--data", "photos", "--json")
    assert done.returncode == 0 and "photos: calibrating on the 120 validation images" in done.stderr, done.stderr
    assert "evaluating on the 130 test images" in netkit("evaluate", "model.onnx", "--data", "photos").stderr
