"""The command line, as people and scripts meet it: real processes, their output, their exit codes."""

import csv
import json
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
def model_path(workplace: Path) -> Path:
    return workplace / "runs/residual/model.onnx"


def one_line(text: str) -> str:
    """The only line of `text`, which is an error for a person."""
    assert "Traceback" not in text
    assert text.count("\n") == 1, text
    assert text.startswith("netkit: ")
    return text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["infer", "nowhere/"], 2, "nowhere/: no such file or folder"),
        (["infer", "empty/"], 2, "empty/: no images in this folder"),
        (["infer", "*.webp"], 2, r"*.webp: matches nothing"),
        (["infer", "digit.png", "--arch", "incepton"], 2, "did you mean 'inception'?"),
        (["infer", "digit.png", "--arch", "densenet"], 2, "make it with 'netkit export --arch densenet'"),
        (["infer", "digit.png"], 2, "no runs/*/model.onnx here; make one with 'netkit export'"),
        (["infer", "digit.png", "--model", "none.onnx"], 2, "none.onnx: no such file"),
        (["infer", "digit.png", "--model", "digit.png"], 1, "digit.png: not an ONNX model"),
        (["infer", "digit.png", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["infer"], 2, "Missing argument 'PATHS...'"),
        (["infer", "digit.png", "--batch-size", "0"], 2, "0 is not in the range 1<=x<=1000000"),
        (["train", "--arch", "resdual"], 2, "did you mean 'residual'?"),
        (["train", "--recipe", "fats"], 2, "did you mean 'fast'?"),
        (["train", "--data", "mnits"], 2, "did you mean 'mnist'?"),
        (["train", "--data", "./nowhere"], 2, "./nowhere: no such folder"),
        (["train", "--data", "empty/"], 1, "no class folders here, and no files in MNIST"),
        (
            ["train", "--data", "digits", "--lr", "-1"],
            2,
            "the learning rate is a positive number up to 1,000,000, not -1.0",
        ),
        (
            ["train", "--data", "digits", "--device", "cpu", "--out", "digit.png"],
            2,
            "--out digit.png: cannot be made a folder",
        ),
        (["export", "--arch", "residual"], 2, "make it with 'netkit train --arch residual'"),
        (["export"], 2, "no runs/*/model.safetensors here; make one with 'netkit train'"),
        (["export", "--run", "empty"], 2, "empty/model.safetensors: no such file"),
        (["export", "--run", ""], 2, "--run: an empty path"),
        (["export", "--precision", "int9"], 2, "did you mean 'int8'?"),
        (["export", "--variants", "fp32,,int8"], 2, "unknown precision ''"),
        (
            ["export", "--variants", "fp32,int8", "--out", "a.onnx"],
            2,
            "--out names one file, and --variants makes several",
        ),
        (["export", "--run", "empty", "--weights", "a.safetensors"], 2, "--run and --weights: choose one"),
        (["export", "--max-drop", "-1"], 2, "-1.0 is not in the range"),
        (["export", "--pad-channels", "16", "--precision", "int8"], 2, "--pad-channels is for fp32, not for int8"),
        (["verify", "none.onnx"], 2, "none.onnx: no such file"),
        (["verify", "digit.png"], 1, "digit.png: not an ONNX model"),
        (["verify"], 2, "Missing argument 'MODEL.onnx'"),
        (["infer", "digit.png", "--model", "empty"], 2, "empty: not a file, but a folder"),
        (["infer", "no\nsuch\x07"], 2, r"no\nsuch\x07: no such file or folder"),
        (["train", "--out", ""], 2, "--out: an empty path"),
        (["train", "--seed", str(2**64)], 2, f"{2**64} is not in the range"),
        (["train", "--batch-size", "1" + "0" * 30], 2, "is not in the range"),
        (["nets", "incption"], 2, "did you mean 'inception'?"),
        (["trian"], 2, "unknown command 'trian': did you mean 'train'?"),
        (["--bogus"], 2, "--bogus"),
        (["sample", "digit.png", "--data", "digits"], 2, "digit.png: a file, not a folder"),
    ],
)
def test_wrong_input_gets_one_clear_line(
    netkit: Netkit, digit: Path, arguments: list[str], code: int, says: str
) -> None:
    (digit.parent / "empty").mkdir()
    done = netkit(*arguments)
    assert says in one_line(done.stderr)
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.skipif(missing_cuda_driver() is None, reason="needs a machine without a CUDA driver")
@pytest.mark.parametrize("command", ["infer", "train"])
def test_cuda_where_there_is_none_fails_with_the_cause(
    netkit: Netkit, digit: Path, model_path: Path, command: str
) -> None:
    rest = (digit, "--model", model_path) if command == "infer" else ("--data", "digits")
    done = netkit(command, *rest, "--device", "cuda")
    assert "no NVIDIA driver on this machine" in one_line(done.stderr)
    assert done.returncode == 1


def test_a_model_without_a_card_is_refused(netkit: Netkit, digit: Path, model: Model) -> None:
    proto = onnx.load_model_from_string(model.content)
    del proto.metadata_props[:]
    (digit.parent / "bare.onnx").write_bytes(proto.SerializeToString())
    done = netkit("infer", digit, "--model", "bare.onnx")
    assert "bare.onnx: no netkit card in this model; make it again with 'netkit export'" in one_line(done.stderr)
    assert done.returncode == 1


def test_verify_prints_what_it_checked_and_that_all_is_right(netkit: Netkit, model_path: Path) -> None:
    done = netkit("verify", model_path)
    assert done.returncode == 0
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["check", "status", "detail"]
    assert [row.split()[:2] for row in rows] == [
        [name, "ok"] for name in ("graph", "probes", "labels", "card", "CPUExecutionProvider")
    ]
    listed = [
        json.loads(line) for line in netkit("verify", model_path, "--json", "--device", "cpu").stdout.splitlines()
    ]
    assert [check["check"] for check in listed] == [row.split()[0] for row in rows]
    assert all(check["ok"] for check in listed)


def test_a_changed_model_fails_to_verify_and_infers_only_when_told_to(
    netkit: Netkit, digit: Path, model: Model
) -> None:
    proto = onnx.load_model_from_string(model.content)
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.01)).tobytes()
    (digit.parent / "changed.onnx").write_bytes(proto.SerializeToString())
    done = netkit("verify", "changed.onnx")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split() == ["graph", "FAILED", "changed", "since", "it", "was", "certified"]
    refused = netkit("infer", digit, "--model", "changed.onnx")
    assert "changed.onnx: verification failed: graph: changed since it was certified" in one_line(refused.stderr)
    assert (refused.returncode, refused.stdout) == (1, "")
    told = netkit("infer", digit, "--model", "changed.onnx", "--no-verify")
    assert told.returncode == 0 and f"{digit},".encode() in told.stdout.encode()


def test_weights_are_exported_from_wherever_they_lie(netkit: Netkit, workplace: Path, tmp_path: Path) -> None:
    shutil.copy(workplace / "runs/residual/model.safetensors", tmp_path / "mine.safetensors")
    arguments = ("export", "--weights", "mine.safetensors", "--data", "digits")
    another = netkit(*arguments, "--arch", "preact")
    assert "mine.safetensors: holds the net residual, not preact" in one_line(another.stderr)
    done = netkit(*arguments, "--arch", "residual", "--out", "mine.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine.onnx: largest error ")
    assert (tmp_path / "mine.onnx").read_bytes() == (workplace / "runs/residual/model.onnx").read_bytes()


def test_a_data_set_with_a_wrong_hash_is_named_and_refused(netkit: Netkit, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, shape in (("train", 6), ("t10k", 2)):
        header = np.array([0x0803, shape, 28, 28], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(shape * 784))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x0801, shape], ">u4").tobytes() + bytes(shape))
    done = netkit("train", NETKIT_DATA=str(tmp_path))
    assert f"{folder}/train-images-idx3-ubyte: SHA-256 " in one_line(done.stderr)
    assert done.returncode == 1


def test_unreadable_files_get_rows_and_the_rest_go_on(netkit: Netkit, digit: Path, model_path: Path) -> None:
    folder = digit.parent / "images"
    folder.mkdir()
    content = digit.read_bytes()
    (folder / "a.png").write_bytes(content)
    (folder / "b.png").write_text("not a picture")
    (folder / "c.png").write_bytes(content[: len(content) // 2])
    (folder / "d.png").write_bytes(content)
    done = netkit("infer", folder, "missing.png", "--model", model_path, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [*(str(folder / f"{name}.png") for name in "abcd"), "missing.png"]
    assert [row["status"] for row in rows] == ["ok", "not-an-image", "truncated", "ok", "vanished"]
    assert "5 files, 3 of them with an error" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_results_go_to_stdout_and_all_else_to_stderr(netkit: Netkit, digit: Path, model_path: Path) -> None:
    done = netkit("infer", digit, "--model", model_path, "--top-k", "3")
    header, row = csv.reader(done.stdout.splitlines())
    assert header == [
        "path", "label", "probability", "status", "message", "label_2", "probability_2", "label_3", "probability_3",
    ]  # fmt: skip
    assert (row[0], row[3], len(row)) == (str(digit), "ok", 9)
    assert "CPUExecutionProvider" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("next: netkit infer")
    assert done.returncode == 0


def test_the_way_from_two_commands_to_predictions(netkit: Netkit, workplace: Path) -> None:
    """On the digits: sample, infer, and the accuracy that training printed is the accuracy in the results."""
    run = workplace / "runs/residual"
    assert {path.name for path in run.iterdir()} == {*RUN, "model.onnx", "parity.md"}
    assert netkit("sample", "images/", "--data", "digits", cwd=workplace).returncode == 0
    assert netkit("sample", "images/", "--data", "digits", cwd=workplace).returncode == 0  # again is no fault
    done = netkit("infer", "images/", "--out", "p.csv", cwd=workplace)
    assert (done.returncode, done.stdout) == (0, "")
    assert "using the newest, runs/residual/model.onnx" in done.stderr
    rows = list(csv.DictReader((workplace / "p.csv").read_text().splitlines()))
    right = sum(row["label"] == Path(row["path"]).parent.name for row in rows)
    metrics = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 355
    assert right / len(rows) == pytest.approx(float(metrics[-1]["test_accuracy"]), abs=1e-12)
    assert f"accuracy {right / len(rows):.2%} ({right} of 355" in done.stderr


def test_dark_ink_on_white_is_warned_of_and_mended_by_invert(netkit: Netkit, workplace: Path, tmp_path: Path) -> None:
    assert netkit("sample", tmp_path / "white", "--data", "digits").returncode == 0
    for path in (tmp_path / "white").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    model = ("--model", workplace / "runs/residual/model.onnx")
    plain = netkit("infer", tmp_path / "white", *model)
    assert "for dark ink on white use --invert" in plain.stderr
    inverted = netkit("infer", tmp_path / "white", *model, "--invert")
    assert "warning" not in inverted.stderr
    straight = netkit("sample", tmp_path / "black", "--data", "digits") and netkit("infer", tmp_path / "black", *model)
    answers = [[line.split(",")[1:] for line in done.stdout.splitlines()] for done in (inverted, straight)]
    assert answers[0] == answers[1]


def test_nets_prints_numbers_sources_and_what_the_bottleneck_saves(netkit: Netkit) -> None:
    table = netkit("nets")
    for cell in ("inception", "97,298", "6,019,200", "arXiv:1409.4842", "arXiv:1603.05027", "arXiv:1608.06993"):
        assert cell in table.stdout
    layers = netkit("nets", "inception").stdout
    assert "inception1.branch5x5.1" in layers and "120,422,400" in layers and "12,443,648" in layers
    rows = [json.loads(line) for line in netkit("nets", "--json").stdout.splitlines()]
    assert [row["arch"] for row in rows] == ["inception", "residual", "preact", "densenet"]


def test_a_failed_export_exits_with_1_and_leaves_the_earlier_model(
    netkit: Netkit, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The residual net adds 0.001 to its logits while it is exported."""
    shutil.copytree(workplace / "runs", tmp_path / "runs")
    forward = ResidualNet.forward

    def wrong_in_export(self: ResidualNet, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) + (1e-3 if torch.compiler.is_exporting() else 0)

    monkeypatch.setattr(ResidualNet, "forward", wrong_in_export)
    done = netkit("export")
    *_, last = done.stderr.splitlines()
    assert last.startswith(
        "netkit: runs/residual/model.onnx: not written: the ONNX model does not compute what PyTorch"
    )
    assert "largest error 0.001, NOT within the bound" in last
    assert (done.returncode, done.stdout) == (1, "")
    assert last.endswith("; the earlier file stays as it was")
    for name in ("model.onnx", "parity.md"):
        earlier = workplace / "runs/residual" / name
        assert (tmp_path / "runs/residual" / name).read_bytes() == earlier.read_bytes()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_fault(tmp_path: Path, digit: Path, model_path: Path, closed: str) -> None:
    command = shlex.join([str(NETKIT), "infer", str(digit), "--model", str(model_path)])
    done = subprocess.run(f"{command} {closed}", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (str(digit) in done.stdout) == (closed == "2>&-")


def test_names_that_the_terminal_cannot_show_are_spelled_out(netkit: Netkit, tmp_path: Path) -> None:
    done = netkit("sample", "s\udcff☃", "--data", "digits", "--count", "3", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stdout) == (0, "s\\udcff☃: 3 images\n")
