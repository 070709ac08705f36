"""The commands: stdout, stderr and exit codes."""

import csv
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from netkit.core.system import missing_cuda_driver
from netkit.infer.model.onnx_file import Model
from netkit.nets.residual import ResidualNet
from tests.support.commands import NETKIT, Netkit

RUN = {"model.safetensors", "metrics.csv", "run.json", "curves.png", "confusion.png", "mistakes.png"}


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(path)
    return path


@pytest.fixture
def model_path(workspace: Path) -> Path:
    return workspace / "runs/residual/model.onnx"


def one_line(text: str) -> str:
    """Check that `text` is one line with an error message; return it."""
    assert "Traceback" not in text
    assert text.count("\n") == 1, text
    assert text.startswith("netkit: ")
    return text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["infer", "nowhere/"], 2, "nowhere/: no such file or folder"),
        (["infer", "empty/"], 2, "empty/: no images in this folder"),
        (["infer", "*.webp"], 2, r"*.webp: matches nothing"),
        (["infer", "digit.png", "--arch", "incepton"], 2, "did you mean 'inception'?"),
        (["infer", "digit.png", "--arch", "densenet"], 2, "run 'netkit export --arch densenet' first"),
        (["infer", "digit.png"], 2, "no runs/*/model.onnx found; run 'netkit export' first"),
        (["infer", "digit.png", "--model", "none.onnx"], 2, "none.onnx: no such file"),
        (
            ["infer", "digit.png", "--model", "digit.png"],
            1,
            "digit.png: is damaged, or not an ONNX model; copy it again, or pass",
        ),
        (["infer", "digit.png", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["infer", "digit.png", "--threads", "999999"], 2, "--threads 999999: must be at most "),
        (["infer", "digit.png", "--out", "r.txt"], 2, "--out r.txt: the suffix must be .csv, .jsonl or .parquet"),
        (["infer", ""], 2, "netkit: a path is empty; pass a file, a folder, a pattern or a URL"),
        (["infer", "digit.png", "--foo"], 2, "netkit: no such option '--foo' (see netkit infer --help)\n"),
        (["infer", "digit.png", "--thread", "1"], 2, "no such option '--thread'. Did you mean '--threads'? (see"),
        (["infer"], 2, "missing argument 'PATHS...' (see netkit infer --help)"),
        (["infer", "digit.png", "--batch-size", "0"], 2, "netkit: --batch-size 0: must be a whole number, 1 or more\n"),
        (["train", "--data", "digits", "--label-column", "x"], 2, "--label-column is for a table (.csv or .tsv), and"),
        (["sample", "out", "--data", "digits", "--layout", "classes"], 2, "--layout is for a folder of images, and"),
        (["train", "--arch", "resdual"], 2, "did you mean 'residual'?"),
        (["train", "--recipe", "fats"], 2, "did you mean 'fast'?"),
        (["train", "--data", "mnits"], 2, "did you mean 'mnist'?"),
        (["train", "--data", "./nowhere"], 2, "./nowhere: no such folder"),
        (["train", "--data", "nowhere.csv"], 2, "nowhere.csv: no such file; pass mnist, digits, a folder, or a table"),
        (["train", "--data", "nowhere"], 2, "known: mnist, digits, a folder or a table (.csv or .tsv) that exists\n"),
        (["sample", "out", "--data", "nowhere.tsv"], 2, "nowhere.tsv: no such file"),
        (["train", "--data", "empty/"], 1, "contains no subfolders; put the images of each class into a subfolder"),
        (["train", "--data", "digits", "--lr", "-1"], 2, "--lr -1: must be above 0 and at most 1,000,000"),
        (
            ["train", "--data", "digits", "--device", "cpu", "--out", "digit.png"],
            2,
            "--out digit.png: is a file; pass a folder",
        ),
        (["export", "--arch", "residual"], 2, "run 'netkit train --arch residual' first"),
        (["export"], 2, "no runs/*/model.safetensors found; run 'netkit train' first"),
        (
            ["export", "--run", "empty"],
            2,
            "empty: contains no model.safetensors; pass a folder",
        ),
        (["export", "--run", "nowhere"], 2, "--run nowhere: no such folder; pass a run folder"),
        (["export", "--run", "digit.png"], 2, "pass a run folder, or a .safetensors file with --weights"),
        (["export", "--run", "empty", "--max-drop", "nan"], 2, "--max-drop nan: must be a number, 0 or more"),
        (["export", "--precision", "int8", "--variants", "fp16"], 2, "--precision and --variants exclude each other"),
        (["bench", "none.onnx", "--seconds", "nan"], 2, "--seconds nan: must be a number above 0"),
        (["infer", "digit.png", "-0"], 2, "-0 is for paths from stdin; pass - as well"),
        (["infer", "digit.png", "--engine", "ray", "--out", "r.csv"], 2, "pass a name without .csv"),
        (["infer", "digit.png", "--model"], 2, "requires an argument (see netkit infer --help)"),
        (["export", "--run", ""], 2, "--run: the path is empty"),
        (["export", "--precision", "int9"], 2, "did you mean 'int8'?"),
        (["export", "--variants", "fp32,,int8"], 2, "unknown precision ''"),
        (
            ["export", "--variants", "fp32,int8", "--out", "a.onnx"],
            2,
            "--out names one file, but --variants writes several",
        ),
        (["export", "--run", "empty", "--weights", "a.safetensors"], 2, "--run and --weights exclude each other"),
        (["export", "--max-drop", "1"], 2, "--max-drop is for fp16 and int8; omit it, or pass --precision"),
        (["export", "--max-drop", "-1"], 2, "--max-drop -1: must be a number, 0 or more"),
        (["export", "--pad-channels", "16", "--precision", "int8"], 2, "--pad-channels requires fp32, not int8"),
        (["export", "--passes", "fold_pixel"], 2, "did you mean 'fold_pixels'?"),
        (["export", "--passes", "none", "--precision", "int8"], 2, "--passes requires fp32, not int8"),
        (["export", "--tune", "--passes", "none"], 2, "--tune chooses the passes itself: pass it without --passes"),
        (["verify", "none.onnx"], 2, "none.onnx: no such file"),
        (["verify", "digit.png"], 1, "digit.png: is damaged, or not an ONNX model; copy it again, or pass"),
        (["verify"], 2, "missing argument 'MODEL.onnx' (see netkit verify --help)"),
        (
            ["infer", "digit.png", "--model", "empty"],
            2,
            "empty: is a folder; pass a file that 'netkit export' wrote, e.g. empty/model.onnx",
        ),
        (["infer", "no\nsuch\x07"], 2, r"no\nsuch\x07: no such file or folder"),
        (["train", "--out", ""], 2, "--out: the path is empty"),
        (["train", "--seed", str(2**64)], 2, f"--seed {2**64}: must be at most 9,223,372,036,854,775,807"),
        (["train", "--batch-size", "1" + "0" * 30], 2, ": must be at most 1,000,000"),
        (["train", "--seed", "abc"], 2, "--seed abc: must be a whole number, 0 or more"),
        (["train", "--batch-size", "1.5"], 2, "--batch-size 1.5: must be a whole number, 1 or more"),
        (["train", "--lr", "fast"], 2, "--lr fast: must be a number\n"),
        (["train", "--channels", "rgb"], 2, "--channels rgb: must be a whole number\n"),
        (["bench", "none.onnx", "--batch-size", "1,4"], 2, "1 or more; repeat --batch-size for each value"),
        (["nets", "incption"], 2, "did you mean 'inception'?"),
        (["nets", "torchvision/resnet18"], 2, "'netkit nets' lists only netkit's own networks"),
        (["trian"], 2, "unknown command 'trian': did you mean 'train'?"),
        (["--bogus"], 2, "--bogus"),
        (
            ["sample", "digit.png", "--data", "digits"],
            2,
            "digit.png: is a file; pass the name of a new or empty folder",
        ),
    ],
)
def test_invalid_input_prints_one_line(
    netkit: Netkit, digit: Path, arguments: list[str], code: int, message: str
) -> None:
    (digit.parent / "empty").mkdir()
    done = netkit(*arguments)
    assert message in one_line(done.stderr)
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.skipif(missing_cuda_driver() is None, reason="needs a machine without a CUDA driver")
@pytest.mark.parametrize("command", ["infer", "train"])
def test_device_cuda_fails_with_the_cause_if_there_is_no_driver(
    netkit: Netkit, digit: Path, model_path: Path, command: str
) -> None:
    arguments = (digit, "--model", model_path) if command == "infer" else ("--data", "digits")
    done = netkit(command, *arguments, "--device", "cuda")
    assert "no NVIDIA driver on this machine" in one_line(done.stderr)
    assert done.returncode == 1


def test_a_model_without_a_card_is_rejected(netkit: Netkit, digit: Path, model: Model) -> None:
    proto = onnx.load_model_from_string(model.content)
    del proto.metadata_props[:]
    (digit.parent / "bare.onnx").write_bytes(proto.SerializeToString())
    done = netkit("infer", digit, "--model", "bare.onnx")
    assert "bare.onnx: was not written by 'netkit export', so it has no labels and no image size" in one_line(
        done.stderr
    )
    assert done.returncode == 1


def test_verify_prints_a_row_for_each_check(netkit: Netkit, model_path: Path) -> None:
    done = netkit("verify", model_path)
    assert done.returncode == 0
    header, *rows = done.stdout.splitlines()
    checks = ("graph", "test images", "labels of the test images", "model card", "outputs on the CPU")
    assert header.split() == ["check", "status", "detail"]
    cells = [re.split(r"\s{2,}", row)[:2] for row in rows]
    assert cells == [[name, "ok"] for name in checks]
    objects = [
        json.loads(line) for line in netkit("verify", model_path, "--json", "--device", "cpu").stdout.splitlines()
    ]
    assert [check["check"] for check in objects] == [name for name, _ in cells]
    assert all(check["ok"] for check in objects)


def test_infer_runs_a_changed_model_only_with_no_verify(netkit: Netkit, digit: Path, model: Model) -> None:
    proto = onnx.load_model_from_string(model.content)
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.01)).tobytes()
    (digit.parent / "changed.onnx").write_bytes(proto.SerializeToString())
    done = netkit("verify", "changed.onnx")
    assert done.returncode == 1
    graph = done.stdout.splitlines()[1]
    assert re.split(r"  +", graph.strip()) == ["graph", "FAILED", "changed since export; the network was not run"]
    assert done.stderr.startswith("graph: export the model again with 'netkit export'\n")
    rejected = netkit("infer", digit, "--model", "changed.onnx")
    assert "changed.onnx: the check 'graph' failed: changed since export" in one_line(rejected.stderr)
    assert (rejected.returncode, rejected.stdout) == (1, "")
    unverified = netkit("infer", digit, "--model", "changed.onnx", "--no-verify")
    assert unverified.returncode == 0 and f"{digit},".encode() in unverified.stdout.encode()
    warning = "warning: changed.onnx: the check 'graph' failed: changed since export; "
    fix = "; to fix it, export the model again with 'netkit export'\n"
    assert f"{warning}using it anyway, because of --no-verify{fix}" in unverified.stderr
    measured = netkit("bench", "changed.onnx", "--batch-size", "1", "--seconds", "0.01")
    assert measured.returncode == 0 and f"{warning}measuring its speed anyway{fix}" in measured.stderr


def test_export_reads_weights_outside_of_a_run_folder(netkit: Netkit, workspace: Path, tmp_path: Path) -> None:
    shutil.copy(workspace / "runs/residual/model.safetensors", tmp_path / "mine.safetensors")
    arguments = ("export", "--weights", "mine.safetensors", "--data", "digits")
    rejected = netkit(*arguments, "--arch", "preact")
    assert "mine.safetensors: contains the network residual, not preact" in one_line(rejected.stderr)
    done = netkit(*arguments, "--arch", "residual", "--out", "mine.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine.onnx: matches PyTorch: largest logit error ")
    assert (tmp_path / "mine.onnx").read_bytes() == (workspace / "runs/residual/model.onnx").read_bytes()


def test_export_names_a_run_whose_training_has_not_ended(netkit: Netkit, tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped/training.safetensors").touch()
    done = netkit("export", "--run", "stopped")
    message = "netkit: stopped: its training has not ended; continue it with 'netkit train' and --resume\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_export_fails_with_2_if_the_data_set_does_not_exist(netkit: Netkit, workspace: Path) -> None:
    done = netkit("export", "--run", workspace / "runs/residual", "--data", "mnits")
    assert done.returncode == 2 and "unknown data set 'mnits': did you mean 'mnist'?" in done.stderr
    done = netkit("evaluate", workspace / "runs/residual/model.onnx", "--data", "none.csv")
    assert done.returncode == 2 and "netkit: none.csv: no such file; pass mnist" in done.stderr


def test_infer_says_that_it_replaces_a_results_file(netkit: Netkit, digit: Path, model_path: Path) -> None:
    arguments = ("infer", digit, "--model", model_path, "--out", "results.csv")
    assert "replacing" not in netkit(*arguments).stderr
    done = netkit(*arguments)
    assert done.returncode == 0 and "results.csv: replacing this file\n" in done.stderr
    (suggestion,) = [line for line in done.stderr.splitlines() if line.startswith("next: ")]
    assert suggestion.endswith("--out results-top2.csv")


def test_train_rejects_mnist_files_with_a_wrong_hash(netkit: Netkit, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, shape in (("train", 6), ("t10k", 2)):
        header = np.array([0x0803, shape, 28, 28], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(shape * 784))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x0801, shape], ">u4").tobytes() + bytes(shape))
    done = netkit("train", NETKIT_DATA=str(tmp_path))
    assert f"{folder}/train-images-idx3-ubyte: SHA-256 " in one_line(done.stderr)
    assert done.returncode == 1


def test_infer_writes_a_row_with_an_error_code_for_each_unreadable_file(
    netkit: Netkit, digit: Path, model_path: Path
) -> None:
    folder = digit.parent / "images"
    folder.mkdir()
    content = digit.read_bytes()
    (folder / "a.png").write_bytes(content)
    (folder / "b.png").write_text("not an image")
    (folder / "c.png").write_bytes(content[: len(content) // 2])
    (folder / "d.png").write_bytes(content)
    done = netkit("infer", folder, "missing.png", "--model", model_path, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [*(str(folder / f"{name}.png") for name in "abcd"), "missing.png"]
    assert [row["status"] for row in rows] == ["ok", "not-an-image", "truncated", "ok", "not-found"]
    assert ": 2 ok, 3 with an error" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_rows_go_to_stdout_and_messages_to_stderr(netkit: Netkit, digit: Path, model_path: Path) -> None:
    done = netkit("infer", digit, "--model", model_path, "--top-k", "3")
    header, row = csv.reader(done.stdout.splitlines())
    assert header == [
        "path", "label", "probability", "status", "message", "label_2", "probability_2", "label_3", "probability_3",
    ]  # fmt: skip
    assert (row[0], row[3], len(row)) == (str(digit), "ok", 9)
    assert re.search(r"^1 file in \d\.\d\d s on the CPU \([\d,]+ files/s\)$", done.stderr, re.MULTILINE), done.stderr
    assert done.stderr.splitlines()[-1].startswith("next: netkit infer")
    assert done.returncode == 0


def test_infer_on_the_sample_has_the_accuracy_that_training_printed(netkit: Netkit, workspace: Path) -> None:
    run = workspace / "runs/residual"
    assert {path.name for path in run.iterdir()} == {*RUN, "model.onnx", "parity.md"}
    for _ in range(2):  # the second time, the files exist
        assert netkit("sample", "images/", "--data", "digits", cwd=workspace).returncode == 0
    done = netkit("infer", "images/", "--out", "p.csv", cwd=workspace)
    assert (done.returncode, done.stdout) == (0, "")
    assert "using runs/residual/model.onnx, the newest runs/*/model.onnx" in done.stderr
    rows = list(csv.DictReader((workspace / "p.csv").read_text().splitlines()))
    correct = sum(row["label"] == Path(row["path"]).parent.name for row in rows)
    metrics = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 355
    assert correct / len(rows) == pytest.approx(float(metrics[-1]["test_accuracy"]), abs=1e-12)
    assert f"accuracy {correct / len(rows):.2%} ({correct} correct of the 355 images whose folder" in done.stderr


def test_dark_ink_on_white_causes_a_warning_and_invert_corrects_the_predictions(
    netkit: Netkit, workspace: Path, tmp_path: Path
) -> None:
    assert netkit("sample", tmp_path / "white", "--data", "digits").returncode == 0
    for path in (tmp_path / "white").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    model = ("--model", workspace / "runs/residual/model.onnx")
    dark_on_white = netkit("infer", tmp_path / "white", *model)
    assert "for dark ink on white pass --invert" in dark_on_white.stderr
    inverted = netkit("infer", tmp_path / "white", *model, "--invert")
    assert "warning" not in inverted.stderr
    assert netkit("sample", tmp_path / "black", "--data", "digits").returncode == 0
    original = netkit("infer", tmp_path / "black", *model)
    predictions = [[line.split(",")[1:] for line in done.stdout.splitlines()] for done in (inverted, original)]
    assert predictions[0] == predictions[1]


def test_nets_prints_sizes_papers_and_multiply_adds_with_and_without_a_bottleneck(netkit: Netkit) -> None:
    table = netkit("nets")
    for cell in ("inception", "97,298", "6,019,200", "arXiv:1409.4842", "arXiv:1603.05027", "arXiv:1608.06993"):
        assert cell in table.stdout
    layers = netkit("nets", "inception").stdout
    assert "inception1.branch5x5.1" in layers and "120,422,400" in layers and "12,443,648" in layers
    rows = [json.loads(line) for line in netkit("nets", "--json").stdout.splitlines()]
    assert [row["arch"] for row in rows] == ["inception", "residual", "preact", "densenet"]


def test_a_failed_export_exits_with_1_and_keeps_the_earlier_model(
    netkit: Netkit, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patched network adds 0.001 to its logits, but only during the export."""
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    forward = ResidualNet.forward

    def wrong_in_export(self: ResidualNet, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) + (1e-3 if torch.compiler.is_exporting() else 0)

    monkeypatch.setattr(ResidualNet, "forward", wrong_in_export)
    done = netkit("export")
    *_, message = done.stderr.splitlines()
    assert message.startswith("netkit: runs/residual/model.onnx: not written: the ONNX model differs from PyTorch: ")
    assert "largest logit error 0.001 on the CPU (" in message
    assert (done.returncode, done.stdout) == (1, "")
    assert message.endswith("; the existing file is unchanged")
    for name in ("model.onnx", "parity.md"):
        earlier = workspace / "runs/residual" / name
        assert (tmp_path / "runs/residual" / name).read_bytes() == earlier.read_bytes()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_infer_succeeds_with_closed_streams(tmp_path: Path, digit: Path, model_path: Path, closed: str) -> None:
    command = shlex.join([str(NETKIT), "infer", str(digit), "--model", str(model_path)])
    done = subprocess.run(f"{command} {closed}", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (str(digit) in done.stdout) == (closed == "2>&-")


def test_file_names_that_stdout_cannot_encode_are_escaped(netkit: Netkit, tmp_path: Path) -> None:
    done = netkit("sample", "s\udcff☃", "--data", "digits", "--count", "3", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stdout) == (0, "wrote 3 images to s\\udcff☃/\n")


def test_a_sample_of_fewer_images_than_requested_says_so(netkit: Netkit, tmp_path: Path) -> None:
    done = netkit("sample", "all", "--data", "digits", "--count", "356")
    assert done.stdout == "wrote 355 images to all/ (all test images of digits, which are fewer than --count 356)\n"
