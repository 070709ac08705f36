"""A failed export changes no file, and its error names each earlier model that is not of the exported network."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

import netkit
from netkit.core.errors import DataError, ModelError, ParityError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export import existing
from netkit.infer.model.onnx_file import Model
from netkit.nets.build import build
from netkit.nets.training import checkpoint
from tests.support import export_networks
from tests.support.commands import Netkit

ARCH = "mine:Net"
WRITTEN_AT = 1_772_600_000  # noon in UTC, so the date is the same in nearly all time zones
EARLIER = f"model.onnx is an earlier export of residual ({date.fromtimestamp(WRITTEN_AT)})"


@pytest.fixture
def folder(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, with a model of another network and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "model.int8.onnx"):
        (tmp_path / name).write_bytes(model.content)
        os.utime(tmp_path / name, (WRITTEN_AT, WRITTEN_AT))
    (tmp_path / "model.fp16.onnx").write_bytes(model.content[:1000])
    (tmp_path / "parity.md").write_text("an earlier page")
    return tmp_path


def save(folder: Path, network: str, card: ModelCard, data: ArrayDataSet) -> None:
    """Write the weights of a network of export_networks to model.safetensors, and a module with its class."""
    (folder / "mine.py").write_text(f"from tests.support.export_networks import {network} as Net\n")
    sys.modules.pop("mine", None)  # of an earlier test
    torch.manual_seed(0)
    net = getattr(export_networks, network)(channels=1, classes=10, size=(28, 28))
    card = replace(card, arch=ARCH, origin=replace(card.origin, data_sha256=data.sha256))
    checkpoint.save(folder / "model.safetensors", net, card)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.*") if path.suffix != ".py"
    }


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the operating system refuse larger files, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("network", "options", "error"),
    [
        ("OffInExport", {}, ParityError),
        ("IfOnValues", {}, ModelError),
        ("MinusBatchMean", {}, ModelError),
        ("FloatConstant", {"variants": ("fp16", "int8")}, ModelError),
        ("UserNetwork", {"variants": ("int8",), "max_drop": -1}, ParityError),
        ("UserNetwork", {"opset": 99}, UsageError),
        ("UserNetwork", {"data": "nowhere"}, UsageError),
        ("UserNetwork", {"data": "empty"}, DataError),
        ("InterruptedInExport", {}, KeyboardInterrupt),
    ],
)
def test_a_failed_export_changes_no_file_and_notes_the_models_of_another_network(
    folder: Path,
    card: ModelCard,
    digits_data: ArrayDataSet,
    network: str,
    options: dict[str, Any],
    error: type[BaseException],
) -> None:
    save(folder, network, card, digits_data)
    before = files(folder)
    (folder / "empty").mkdir()
    with pytest.raises(error) as caught:
        netkit.export_model("model.safetensors", arch=ARCH, **{"data": "digits", **options})
    (folder / "empty").rmdir()
    assert files(folder) == before
    name = "model.int8.onnx" if "variants" in options else "model.onnx"
    assert caught.value.__notes__ == [f"{EARLIER.replace('model.onnx', name)}, not of this network"]


def test_a_disk_that_is_full_after_the_checks_changes_no_file(
    folder: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    save(folder, "UserNetwork", card, digits_data)
    before = files(folder)
    with pytest.raises(OSError, match=r"model\.onnx") as caught, largest_file(6000):  # parity.md is smaller
        netkit.export_model("model.safetensors", arch=ARCH, data="digits")
    assert files(folder) == before
    assert caught.value.__notes__ == [f"{EARLIER}, not of this network"]


def test_a_report_that_cannot_be_written_leaves_the_earlier_model(
    folder: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    save(folder, "UserNetwork", card, digits_data)
    (folder / "parity.md").unlink()
    before = files(folder)
    (folder / "parity.md").mkdir()
    with pytest.raises(UsageError, match=r"parity\.md: is a folder"):
        netkit.export_model("model.safetensors", arch=ARCH, data="digits")
    (folder / "parity.md").rmdir()
    assert files(folder) == before


@pytest.mark.parametrize(
    ("network", "code", "message"),
    [("InterruptedInExport", 130, "netkit: interrupted"), ("IfOnValues", 1, "mine:Net: ")],
)
def test_the_note_is_the_last_line_of_the_command(
    folder: Path, card: ModelCard, digits_data: ArrayDataSet, netkit: Netkit, network: str, code: int, message: str
) -> None:
    save(folder, network, card, digits_data)
    done = netkit("export", "--run", ".", "--arch", ARCH, "--data", "digits")
    assert done.returncode == code, done.stderr
    *_, error, note = done.stderr.splitlines()
    assert message in error and note == f"netkit: {EARLIER}, not of this network"


def test_only_models_with_other_weights_get_a_note(folder: Path, workspace: Path) -> None:
    net, card = checkpoint.load(workspace / "runs/residual/model.safetensors")
    torch.manual_seed(1)
    paths = [folder / name for name in ("model.onnx", "model.fp16.onnx", "parity.md", "none.onnx")]
    for exported, notes in ((net, []), (build(card), [f"{folder}/{EARLIER} with other weights"])):
        with pytest.raises(ValueError) as caught, existing.noted(paths, exported, card):
            raise ValueError("no")
        assert getattr(caught.value, "__notes__", []) == notes
