"""The cluster engine on a real Ray, from the command line: rows as the local engine's, and kills that cost no row."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import NETKIT, Netkit, run_netkit
from pyarrow import parquet as pq

from nets.machine import missing_cuda_driver

COUNT = 3000
RAY = ("--engine", "ray", "--workers", "2", "--out", "out")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Path:
    """A folder with a model, and images in images/: links to a few digits, and one in a hundred that is none."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([NETKIT, "sample", "few", "--data", "digits", "--count", "50"], cwd=folder, check=True)
    (folder / "few/none.png").write_bytes(b"no image")
    files = sorted((folder / "few").rglob("*.png"))
    (folder / "images").mkdir()
    for number in range(COUNT):
        target = folder / "few/none.png" if number % 100 == 7 else files[number % 50]
        os.link(target, folder / f"images/{number:05}.png")
    (folder / "model.onnx").write_bytes((workplace / "runs/residual/model.onnx").read_bytes())
    local = run_netkit("infer", "images", "--model", "model.onnx", "--out", "local.parquet", cwd=folder)
    assert local.returncode == 1, local.stderr  # for those that are no images
    return folder


def rows_in(folder: Path) -> list[dict[str, object]]:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).replace_schema_metadata().to_pylist()


def test_rows_are_those_of_the_local_engine(netkit: Netkit, digits: Path) -> None:
    command = ("infer", "images", "--model", "model.onnx")
    done = netkit(*command, "--engine", "ray", "--workers", "2", "--out", "all", cwd=digits)
    assert done.returncode == 1, done.stderr
    assert rows_in(digits / "all") == pq.read_table(digits / "local.parquet").to_pylist()
    assert (digits / "all/_SUCCESS").exists()
    expected = ("3,000 files", "next:", "running on the CPU: ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(expected)] == []
    ended = netkit(*command, "--engine", "ray", "--out", "all", "--resume", cwd=digits)
    assert ended.returncode == 0 and "this run has ended" in ended.stderr


def actors_of(driver: int) -> Iterator[int]:
    """The processes of Ray's actors that hold a session, among the descendants of `driver`."""
    parents: dict[int, int] = {}
    actors: list[int] = []
    for found in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parents[int(found.name)] = int((found / "stat").read_text().rpartition(")")[2].split()[1])
            if b"MapWorker" in (found / "cmdline").read_bytes():
                actors.append(int(found.name))
    for actor in actors:
        above = actor
        while above in parents and above != driver:
            above = parents[above]
        if above == driver:
            yield actor


def parts_in(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_costs_no_row_and_little_work(netkit: Netkit, digits: Path, victim: str) -> None:
    out = digits / victim
    command = ("infer", "images", "--model", "model.onnx", "--engine", "ray", "--workers", "2", "--out", out)
    driver = subprocess.Popen([NETKIT, *command], cwd=digits, stderr=subprocess.DEVNULL, start_new_session=True)
    while parts_in(out) < 20:
        time.sleep(0.01)
        assert driver.poll() is None
    if victim == "driver":
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        whole = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
        done = netkit(*command, "--resume", cwd=digits)
        again = sum(part.stat().st_mtime_ns != then for part, then in whole.items())
        assert again == 0 and done.returncode == 1, done.stderr
    else:
        os.kill(next(actors_of(driver.pid)), signal.SIGKILL)
        assert driver.wait(timeout=300) == 1
    assert [row["path"] for row in rows_in(out)] == [f"images/{number:05}.png" for number in range(COUNT)]
    assert rows_in(out) == pq.read_table(digits / "local.parquet").to_pylist()
    manifest = json.loads((out / "_manifest.json").read_text())
    assert manifest["rows"]["failed"] == COUNT // 100
    assert 2 * manifest["shard size"] <= 0.02 * COUNT  # what two workers may have to do again


@pytest.mark.slow
def test_sigterm_is_told_and_what_is_done_kept(netkit: Netkit, digits: Path) -> None:
    out = digits / "stopped"
    command = ("infer", "images", "--model", "model.onnx", *RAY[:-1], "stopped")
    driver = subprocess.Popen([NETKIT, *command], cwd=digits, stderr=subprocess.PIPE, text=True)
    while parts_in(out) < 5:
        time.sleep(0.01)
        assert driver.poll() is None
    driver.terminate()
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 143 and "netkit: terminated" in said, said
    assert "shards are kept; go on with --resume" in said
    assert not (out / "_SUCCESS").exists()


@pytest.mark.slow
def test_cuda_without_a_gpu_fails_with_the_cause(netkit: Netkit, digits: Path) -> None:
    if not missing_cuda_driver():
        pytest.skip("this machine has a CUDA driver")
    done = netkit("infer", "images", "--model", "model.onnx", *RAY, "--device", "cuda", cwd=digits)
    assert done.returncode == 1 and "the cluster has no GPU" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_workers_warning_is_told_once(netkit: Netkit, digits: Path) -> None:
    done = netkit("infer", "images", "--model", "model.onnx", *RAY[:-1], "inverted", "--invert", cwd=digits)
    assert done.stderr.count("leave out --invert") == 1, done.stderr


def test_what_is_missing_is_one_line(netkit: Netkit, digits: Path) -> None:
    for options, told in (
        (RAY[:2], "--engine ray writes numbered files"),
        (("--workers", "2"), "--workers and --address are for --engine ray"),
        (("--engine", "spark"), "unknown engine 'spark'"),
        ((*RAY, "--address", "127.0.0.1:1"), "no Ray cluster there: [Errno 111] Connection refused"),
        ((*RAY, "--address", "auto"), "no Ray cluster there"),
        ((*RAY, "--threads", "2"), "--threads is for --engine local"),
    ):
        done = netkit("infer", "images", "--model", "model.onnx", *options, cwd=digits)
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
