"""Run folders: one per architecture, and how commands choose the newest file or the file that is named."""

import logging
import os
from pathlib import Path

import pytest

from netkit.core.errors import UsageError
from netkit.core.runs import MODEL, WEIGHTS, choose, is_external, is_user_code, required_channels, run_folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(arch: str, *names: str, age_s: int = 0) -> None:
    for name in names:
        path = Path("runs") / arch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1_000_000_000 - age_s,) * 2)


@pytest.mark.parametrize(
    ("arch", "folder"),
    [
        ("inception", "runs/inception"),
        ("timm/resnet18.a1_in1k", "runs/timm-resnet18-a1_in1k"),
        ("hub:a/b:c.d", "runs/hub-a-b-c-d"),
        ("../../etc", "runs/------etc"),
        ("/etc", "runs/-etc"),
        ("..", "runs/--"),
    ],
)
def test_the_run_folder_of_any_architecture_name_is_in_runs(here: Path, arch: str, folder: str) -> None:
    assert run_folder(arch) == Path(folder)
    assert run_folder(arch).resolve().parent == here / "runs"


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
def test_the_newest_file_is_used_and_logged(here: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level(logging.INFO)
    make_run("densenet", name, age_s=20)
    make_run("inception", name, age_s=10)
    make_run("preact", name, age_s=30)
    make_run("residual", WEIGHTS if name == MODEL else MODEL)  # newer, but without the file `name`
    assert choose(name, file=None, arch=None) == Path("runs/inception") / name
    assert caplog.messages == [f"using runs/inception/{name}, the newest runs/*/{name}"]


def test_the_named_file_is_used_even_if_another_is_newer(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make_run("densenet", MODEL, age_s=20)
    make_run("inception", MODEL)
    Path("my.onnx").touch()
    assert choose(MODEL, file=None, arch="densenet") == Path("runs/densenet/model.onnx")
    assert choose(MODEL, file=Path("my.onnx"), arch=None) == Path("my.onnx")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "file", "arch", "message"),
    [
        (MODEL, None, None, "no runs/*/model.onnx found; run 'netkit export' first"),
        (WEIGHTS, None, None, "no runs/*/model.safetensors found; run 'netkit train' first"),
        (MODEL, None, "preact", "runs/preact/model.onnx: no such file; run 'netkit export --arch preact' first"),
        (WEIGHTS, None, "a/b", "runs/a-b/model.safetensors: no such file; run 'netkit train --arch a/b' first"),
        (MODEL, "my.onnx", None, "my.onnx: no such file; pass a file that 'netkit export' wrote"),
        (MODEL, "folder", None, "folder: is a folder; pass a file that 'netkit export' wrote, e.g. folder/model.onnx"),
        (MODEL, "pipe", None, "pipe: is a pipe or a device; pass a file that 'netkit export' wrote"),
        (MODEL, "my.onnx", "preact", "my.onnx and --arch preact both name a file: pass only one of them"),
    ],
)
def test_the_message_for_a_missing_file_names_the_command_that_writes_it(
    here: Path, name: str, file: str | None, arch: str | None, message: str
) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(UsageError) as caught:
        choose(name, file=Path(file) if file else None, arch=arch)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arch", "external", "user_code", "channels"),
    [
        ("inception", False, False, None),
        ("torchvision/resnet18", True, False, 3),
        ("timm/resnet18.a1_in1k", True, False, 3),
        ("timm/hf-hub:someone/weights", True, False, 3),  # unknown, but not a class of the user
        ("mypkg.mymodule:MyNet", True, True, None),
    ],
)
def test_the_name_of_an_architecture_shows_where_its_code_comes_from(
    arch: str, external: bool, user_code: bool, channels: int | None
) -> None:
    assert (is_external(arch), is_user_code(arch), required_channels(arch)) == (external, user_code, channels)
