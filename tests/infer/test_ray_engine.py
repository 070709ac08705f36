"""The cluster engine on a real Ray, from the command line: rows as the local engine's, and kills that cost no row."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from netkit.core.system import missing_cuda_driver
from netkit.infer.cluster.ray_engine import Pool, pool_for, read_rows
from tests.support.commands import NETKIT, run_netkit
from tests.support.waiting import HANG_S, wait_until

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


def descendants(of: int) -> dict[int, bytes]:
    """The processes that came of one, by their ids: their command lines."""
    parents: dict[int, int] = {}
    lines: dict[int, bytes] = {}
    for found in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parents[int(found.name)] = int((found / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(found.name)] = (found / "cmdline").read_bytes()

    def came_of_it(process: int) -> bool:
        while process in parents and process != of:
            process = parents[process]
        return process == of

    return {process: line for process, line in lines.items() if process != of and came_of_it(process)}


def listening(processes: Iterable[int]) -> set[str]:
    """The addresses, in hexadecimal digits as the kernel has them, at which they listen."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(handle))
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.slow
def test_rows_are_those_of_the_local_engine_and_nobody_else_can_listen_in(digits: Path) -> None:
    command = ("infer", "images", "--model", "model.onnx")
    ray = ("--engine", "ray", "--workers", "2", "--out", "all")
    driver = subprocess.Popen([NETKIT, *command, *ray], cwd=digits, stderr=subprocess.PIPE, text=True)
    heard_at: set[str] = set()
    while not (digits / "all/_SUCCESS").exists():
        assert driver.poll() is None
        heard_at |= listening([driver.pid, *descendants(driver.pid)])
        time.sleep(0.1)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode == 1, told
    assert heard_at and heard_at <= {"0100007F", "0000000000000000FFFF00000100007F", f"{'0' * 24}01000000"}, heard_at
    assert rows_in(digits / "all") == pq.read_table(digits / "local.parquet").to_pylist()
    assert [line for line in told.splitlines() if not line.startswith("3,000 files")] == []
    ended = run_netkit(*command, *ray, "--resume", cwd=digits)
    assert "all: this run has ended: nothing is left to do" in ended.stderr
    assert ended.returncode == 1 and "3,000 files, 30 of them with an error" in ended.stderr, ended.stderr
    for other, told in ((["few"], "other inputs: 3000 files, not these 51"), (["images", "--top-k", "2"], "top-k")):
        refused = run_netkit("infer", *other, "--model", "model.onnx", *ray, "--resume", cwd=digits)
        assert refused.returncode == 2 and told in refused.stderr, refused.stderr


@contextmanager
def cluster(home: Path, **environment: object) -> Iterator[tuple[str, str]]:
    """A Ray cluster on this machine. Yields its addresses for drivers on the machine, and for clients."""
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("a token, without which nobody is let in")
    ports = [free_port() for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name, value in environment.items():
            patch.setenv(name, str(value))
        head = subprocess.Popen(
            [NETKIT.with_name("ray"), "start", "--head", "--block", "--num-cpus", "2", "--include-dashboard", "false",
             "--object-store-memory", str(2**28), "--port", str(ports[0]), "--ray-client-server-port", str(ports[1]),
             "--temp-dir", tempfile.mkdtemp(prefix="ray")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: head.poll() is not None or all(answers(port) for port in ports))
        assert head.poll() is None
        yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
        for process in [*descendants(head.pid), head.pid]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        head.wait()


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_a_cluster_that_runs_makes_the_same_rows(digits: Path, tmp_path: Path) -> None:
    patience = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": HANG_S, "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": HANG_S}
    with cluster(tmp_path, **patience) as addresses:
        for number, address in enumerate(addresses):
            command = ("infer", "images", "--model", "model.onnx", *RAY[:-1], f"there{number}", "--address", address)
            done = run_netkit(*command, cwd=digits)
            assert done.returncode == 1, done.stderr
            assert [line for line in done.stderr.splitlines() if not line.startswith("3,000 files")] == []
            assert rows_in(digits / f"there{number}") == pq.read_table(digits / "local.parquet").to_pylist()
        command = ("infer", "images", "--model", "model.onnx", *RAY, "--address", addresses[0])
        without_token = run_netkit(*command, cwd=digits, HOME=str(digits))
    assert without_token.returncode == 2 and "no authentication token was found" in without_token.stderr
    assert "Traceback" not in without_token.stderr


@pytest.mark.slow
def test_a_cluster_that_starts_no_server_for_the_client_gives_the_cause(digits: Path, tmp_path: Path) -> None:
    with cluster(tmp_path, RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=0) as (_, address):
        done = run_netkit("infer", "images", "--model", "model.onnx", *RAY, "--address", address, cwd=digits)
    assert done.returncode == 2 and "RuntimeError: Proxy failed to Connect to backend!" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def parts_in(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_costs_no_row_and_little_work(digits: Path, victim: str) -> None:
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
        done = run_netkit(*command, "--resume", cwd=digits)
        again = sum(part.stat().st_mtime_ns != then for part, then in whole.items())
        assert again == 0 and done.returncode == 1, done.stderr
    else:
        actors = [process for process, line in descendants(driver.pid).items() if b"MapWorker" in line]
        os.kill(actors[0], signal.SIGKILL)
        whole = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
        assert driver.wait(timeout=300) == 1
        again = sum(part.stat().st_mtime_ns != then for part, then in whole.items())
        assert again == 0
    assert [row["path"] for row in rows_in(out)] == [f"images/{number:05}.png" for number in range(COUNT)]
    assert rows_in(out) == pq.read_table(digits / "local.parquet").to_pylist()
    manifest = json.loads((out / "_manifest.json").read_text())
    assert manifest["rows"]["failed"] == COUNT // 100
    assert 2 * manifest["shard size"] <= 0.02 * COUNT  # what two workers were at, and had not given its name


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "")])
@pytest.mark.parametrize("parts", [0, 5])
def test_a_stop_is_told_and_what_is_done_kept(
    digits: Path, tmp_path: Path, stop: int, code: int, word: str, parts: int
) -> None:
    out = tmp_path / "out"
    command = ("infer", "images", "--model", "model.onnx", *RAY[:-1], out)
    driver = subprocess.Popen([NETKIT, *command], cwd=digits, stderr=subprocess.PIPE, text=True)
    while not (any(b"gcs_server" in line for line in descendants(driver.pid).values()) and parts_in(out) >= parts):
        time.sleep(0.01)
        assert driver.poll() is None
    driver.send_signal(stop)
    of_ray: dict[int, bytes] = {}
    while driver.poll() is None:  # what still starts is seen, too
        of_ray |= descendants(driver.pid)
        time.sleep(0.02)
    _, said = driver.communicate(timeout=60)
    assert len(of_ray) > 3
    assert driver.returncode == code and word in said and "Traceback" not in said, said
    assert ("shards are kept; go on with --resume" in said) == (parts > 0)
    assert not (out / "_SUCCESS").exists()
    wait_until(lambda: not any(line and command_of(process) == line for process, line in of_ray.items()))


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_cuda_without_a_gpu_fails_with_the_cause(digits: Path) -> None:
    if not missing_cuda_driver():
        pytest.skip("this machine has a CUDA driver")
    done = run_netkit("infer", "images", "--model", "model.onnx", *RAY, "--device", "cuda", cwd=digits)
    assert done.returncode == 1 and "the cluster has no GPU" in done.stderr, done.stderr


@pytest.mark.slow
def test_strange_light_is_told_once(digits: Path) -> None:
    done = run_netkit("infer", "images", "--model", "model.onnx", *RAY[:-1], "inverted", "--invert", cwd=digits)
    assert done.stderr.count("leave out --invert") == 1, done.stderr


def test_what_several_workers_note_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    notes = json.dumps([("%s is slow", "one disk is slow")]), json.dumps([("%s is slow", "another disk is slow")])
    given = [{"made": json.dumps({"number": number}), "notes": notes[number % 2]} for number in range(4)]
    assert [made.number for made in read_rows(given)] == [0, 1, 2, 3]
    assert caplog.messages == ["one disk is slow"]


def test_who_has_a_gpu_has_it_alone() -> None:
    assert pool_for("cuda", 16, 2) == Pool(2, gpu=True) and pool_for("cuda", 1, 2) == Pool(1, gpu=True)
    assert pool_for("auto", 16, 2) == pool_for("cpu", 16, 0) == Pool(16, gpu=False)


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_not_waited_for_at_a_stop(digits: Path) -> None:
    with socket.create_server(("", 0)) as silent:
        silent.settimeout(60)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = ("infer", "images", "--model", "model.onnx", *RAY[:-1], "silent", "--address", address)
        driver = subprocess.Popen([NETKIT, *command], cwd=digits, stderr=subprocess.PIPE, text=True)
        silent.accept()[0].close()  # netkit's look whether there is somebody
        silent.accept()[0].close()  # Ray itself, which asks again and again
        driver.terminate()
        _, said = driver.communicate(timeout=120)  # Ray's own attempts last more than 240 s
    assert driver.returncode == 143 and said.endswith("netkit: terminated\n"), said


def test_what_is_missing_is_one_line(digits: Path) -> None:
    for options, told in (
        (RAY[:2], "--engine ray writes numbered files"),
        (("--workers", "2"), "--workers and --address are for --engine ray"),
        (("--engine", "spark"), "unknown engine 'spark'"),
        ((*RAY, "--address", "127.0.0.1:1"), "no Ray cluster there: [Errno 111] Connection refused"),
        ((*RAY, "--address", "auto"), "no Ray cluster there"),
        ((*RAY, "--threads", "2"), "--threads is for --engine local"),
    ):
        done = run_netkit("infer", "images", "--model", "model.onnx", *options, cwd=digits)
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
