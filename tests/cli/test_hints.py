"""The last line of each command, `next: ...`, is a command that runs as printed."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from netkit.cli import COMMANDS, hints
from netkit.cli.params import NUMBERS, PATH, SIZE, VARIANT, ChoiceList, option
from netkit.data.dataset import ArrayDataSet
from netkit.data.sample import write_sample
from tests.support.commands import NETKIT, TRAIN, Netkit, restore_sigint, wait_for_an_epoch


def words_in(line: str) -> list[str]:
    """Split a command line into words with bash."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def suggested(stderr: str) -> str:
    """The command line that the last line of stderr suggests."""
    *_, last_line = stderr.splitlines()
    assert last_line.startswith("next: "), stderr
    return last_line.removeprefix("next: ")


@click.command("try")
@click.argument("paths", nargs=-1)
@option("--out", type=PATH)
@option("--size", type=SIZE)
@option("--mean", type=NUMBERS)
@option("--variants", type=ChoiceList(VARIANT))
@option("--batch-size", type=int, multiple=True)
@option("--lr", type=float, default=0.1)
@option("-0", "nul", is_flag=True)
@option("--json", "as_json", is_flag=True)
def try_command(**params: Any) -> dict[str, Any]:
    hints.suggest_again()
    return params


ODD_PATHS = ["it's", "a b", "*.png", "$HOME", "a\nb", "'\\\t", "\udcff", "日本"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([], []),
        (["--lr", "0.1", "b/"], ["b/", "--lr", "0.1"]),
        (["--size=24", "--mean", "1,1e-3", "--variants", "int8,fp32"],
         ["--size", "24x24", "--mean", "1,0.001", "--variants", "int8,fp32"]),
        (["--batch-size", "4", "-0", "-", "--batch-size=1"], ["-", "--batch-size", "4", "--batch-size", "1", "-0"]),
        (["--out", "-x.csv", "--json", "--", "--json", "a"], ["--out", "-x.csv", "--json", "--", "--json", "a"]),
        (ODD_PATHS, ODD_PATHS),
    ],
)  # fmt: skip
def test_suggest_again_repeats_the_typed_command(
    capfd: pytest.CaptureFixture[str], typed: list[str], words: list[str]
) -> None:
    params = try_command.main(typed, standalone_mode=False)
    netkit, command, *repeated = words_in(suggested(capfd.readouterr().err))
    assert (netkit, command, repeated) == ("netkit", "try", words)
    assert try_command.main(repeated, standalone_mode=False) == params


def test_suggest_again_applies_changes_and_puts_the_launcher_first(
    capfd: pytest.CaptureFixture[str],
) -> None:
    @click.command("try", params=try_command.params)
    def changed(**params: Any) -> None:
        hints.suggest_again(launcher=["torchrun", "-m"], out="r.csv", lr=0.5, as_json=None, nul=True, size=None)

    changed.main(["--lr", "0.2", "a", "--json", "--size", "4"], standalone_mode=False)
    assert suggested(capfd.readouterr().err) == "torchrun -m netkit try a --out r.csv --lr 0.5 -0"


LINES = {  # name of the case -> command line to run in `place`, and its stdin
    "train": ("netkit train --arch residual --data digits --epochs 0.2 --no-export-check --out 'my run'", b""),
    "export": ("netkit export --arch residual --json", b""),
    "verify": ("netkit verify runs/residual/model.onnx", b""),
    "infer": ("netkit infer --json -- -x.png $'a\\nb.png' images/", b""),
    "evaluate": ("netkit evaluate --data images/ runs/residual/model.onnx --json", b""),
    "calibrate": ("netkit calibrate runs/residual/model.onnx --data digits --out -new.onnx", b""),
    "bench": ("netkit bench runs/residual/model.onnx --seconds 0.05 --batch-size 4 --batch-size 1", b""),
    "doctor": ("netkit doctor", b""),
    "import": ("netkit import ./-net.pth", b""),
    "sample": ("netkit sample --data digits --count 3 -- -more", b""),
    "nets": ("netkit nets", b""),
    "infer into a file": ("netkit infer images/ --out first.csv", b""),
}


@pytest.fixture(scope="module")
def place(workspace: Path, tmp_path_factory: pytest.TempPathFactory, digits_data: ArrayDataSet) -> Path:
    """A folder with runs/residual, images/, a PyTorch state dict, and two images whose names need quoting."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(workspace / "runs", folder / "runs")
    write_sample(digits_data, folder / "images", count=20)
    for name in ("-x.png", "a\nb.png"):
        Image.fromarray(digits_data.test_images[0, 0]).save(folder / name)
    torch.save(load_file(folder / "runs/residual/model.safetensors"), folder / "-net.pth")
    return folder


RunLine = Callable[..., str]


@pytest.fixture
def run_line(netkit: Netkit) -> RunLine:
    """Return a function that runs a command line in a folder, checks that it succeeds, and returns its stderr."""

    def run_line(line: str, folder: Path, stdin: bytes = b"") -> str:
        command, *arguments = words_in(line)
        assert command == "netkit"
        done = netkit(*arguments, cwd=folder, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run_line


@pytest.mark.parametrize(("line", "stdin"), LINES.values(), ids=LINES)
def test_the_suggested_command_runs_as_printed(run_line: RunLine, place: Path, line: str, stdin: bytes) -> None:
    run_line(suggested(run_line(line, place, stdin)), place, stdin)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--precision int8 --max-drop 100",
        "--variants int8,fp32 --max-drop 100",
        "--out 'a b.onnx'",
        "--out ../-c.onnx",
    ],
)
def test_the_hint_of_export_runs_the_model_that_was_written(
    run_line: RunLine, workspace: Path, tmp_path: Path, options: str
) -> None:
    """Also if runs/ has another model, which is newer, and from another folder."""
    shutil.copytree(workspace / "runs", tmp_path / "here/runs")
    shutil.copytree(workspace / "runs/residual", tmp_path / "run x")
    errors = run_line(f"netkit export --run '../run x' {options}", tmp_path / "here")
    line = suggested(errors)
    run_line(line, tmp_path / "here")
    written = max(
        (path for path in tmp_path.rglob("*.onnx") if "runs" not in path.parts),
        key=lambda path: path.stat().st_mtime_ns,
    )
    if "variants" in options:
        written = tmp_path / "run x/model.int8.onnx"
    command, verb, *words = words_in(line)
    assert (command, verb) == ("netkit", "evaluate")
    assert any((tmp_path / "here" / word).resolve() == written for word in words)


def test_the_hint_of_export_in_runs_is_a_sample_for_the_default_model(
    run_line: RunLine, workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    line = suggested(run_line("netkit export --run runs/residual", tmp_path))
    assert line == "netkit sample images/ --data digits"
    assert suggested(run_line(line, tmp_path)) == "netkit infer images/"


def test_a_run_over_a_list_on_stdin_is_not_suggested_again(run_line: RunLine, place: Path) -> None:
    assert "next: " not in run_line("netkit infer - -0", place, b"-x.png\0a\nb.png")


def test_every_command_has_a_case() -> None:
    assert set(COMMANDS) <= set(LINES)


def test_following_the_hints_leads_from_train_to_results(run_line: RunLine, tmp_path: Path) -> None:
    """The run folder has a space in its name, and runs/ has no model."""
    line = "netkit train --arch residual --data digits --epochs 0.2 --no-export-check --out 'my run'"
    for expected in (
        "netkit export --run 'my run'",
        "netkit evaluate 'my run/model.onnx' --data digits",
        "netkit evaluate 'my run/model.onnx' --data digits --out report.html",
        "netkit infer --model 'my run/model.onnx' --help",  # because there is no images/
    ):
        line = suggested(run_line(line, tmp_path))
        assert line == expected
    assert suggested(run_line("netkit sample images/ --data digits", tmp_path)) == "netkit infer --help"
    line = "netkit verify 'my run/model.onnx'"
    for expected in (
        "netkit infer images/ --model 'my run/model.onnx'",
        "netkit infer images/ --model 'my run/model.onnx' --out results.csv",
        "netkit infer images/ --model 'my run/model.onnx' --top-k 2 --out results-top2.csv",
    ):
        line = suggested(run_line(line, tmp_path))
        assert line == expected


@pytest.mark.parametrize("folder", ["..", "{parent}", "-x"])
def test_the_hints_for_a_data_set_run_from_any_folder(
    run_line: RunLine, tmp_path: Path, digits_data: ArrayDataSet, folder: str
) -> None:
    """The paths of the data set and of the run are relative or absolute, and need quoting."""
    write_sample(digits_data, tmp_path / "my 'photos'", count=40)
    (tmp_path / "work").mkdir()
    out = shlex.quote(f"{folder.format(parent=tmp_path)}/it's my $run")
    line = f"netkit train --arch residual --data ../my\\ \\'photos\\' --epochs 1 --out={out}"
    for command in ("export", "evaluate", "evaluate"):
        line = suggested(run_line(line, tmp_path / "work"))
        assert words_in(line)[1] == command
    run_line(line, tmp_path / "work")
    assert (tmp_path / "work/report.html").exists()


@pytest.mark.slow
def test_the_hint_of_nets_trains_the_network_that_it_printed(
    run_line: RunLine, tmp_path: Path, mnist_data: ArrayDataSet
) -> None:
    run_line(suggested(run_line("netkit nets residual", tmp_path)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "prefix"),
    [
        ([str(NETKIT)], ""),
        (
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "netkit"],
            "torchrun --nproc-per-node 2 -m ",
        ),
    ],
    ids=["alone", "torchrun"],
)
def test_the_hint_of_an_interrupted_training_resumes_it(tmp_path: Path, launcher: list[str], prefix: str) -> None:
    process = subprocess.Popen(
        [*launcher, *TRAIN, "--json"], cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=restore_sigint
    )
    wait_for_an_epoch(tmp_path, process)
    process.send_signal(signal.SIGTERM if prefix else signal.SIGINT)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode != 0
    (line,) = [line.removeprefix("next: ") for line in errors.splitlines() if line.startswith("next: ")]
    assert line == f"{prefix}netkit {' '.join(TRAIN[:-1])} --resume {TRAIN[-1]} --json"
    environment = {**os.environ, "PATH": f"{NETKIT.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "resuming after step" in done.stderr, done.stderr
