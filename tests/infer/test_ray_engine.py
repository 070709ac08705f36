"""`netkit infer --engine ray` on a real Ray: its rows equal those of the local engine, even after kills."""

import json
import logging
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
from netkit.infer.cluster.ray_engine import Pool, pool_for, read_results
from netkit.infer.cluster.shards import ShardResult
from tests.support.commands import NETKIT, run_netkit
from tests.support.waiting import HANG_S, wait_until

COUNT = 3000
INFER = ("infer", "images", "--model", "model.onnx")
RAY = ("--engine", "ray", "--workers", "2", "--out", "out")
START_ATTEMPTS = 3  # `ray start` ends if another process takes one of its ports, or if the machine is very busy


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """A folder with a model, and links to a few digits in images/; one in a hundred is not an image."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([NETKIT, "sample", "few", "--data", "digits", "--count", "50"], cwd=folder, check=True)
    (folder / "few/none.png").write_bytes(b"not an image")
    files = sorted((folder / "few").rglob("*.png"))
    (folder / "images").mkdir()
    for number in range(COUNT):
        target = folder / "few/none.png" if number % 100 == 7 else files[number % 50]
        os.link(target, folder / f"images/{number:05}.png")
    (folder / "model.onnx").write_bytes((workspace / "runs/residual/model.onnx").read_bytes())
    local = run_netkit(*INFER, "--out", "local.parquet", cwd=folder)
    assert local.returncode == 1, local.stderr  # because some files are not images
    return folder


def rows_in(folder: Path) -> list[dict[str, object]]:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).replace_schema_metadata().to_pylist()


def descendants(ancestor: int) -> dict[int, bytes]:
    """The command lines of all descendants of a process, by process ID."""
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()

    def is_descendant(pid: int) -> bool:
        while pid in parents and pid != ancestor:
            pid = parents[pid]
        return pid == ancestor

    return {pid: command for pid, command in commands.items() if pid != ancestor and is_descendant(pid)}


def listening_addresses(pids: Iterable[int]) -> set[str]:
    """The addresses on which the processes listen, in hexadecimal as in /proc/net/tcp."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(handle))
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.slow
def test_rows_equal_those_of_the_local_engine_and_ray_listens_only_on_loopback(digits: Path) -> None:
    ray = (*RAY[:-1], "all")
    driver = subprocess.Popen([NETKIT, *INFER, *ray], cwd=digits, stderr=subprocess.PIPE, text=True)
    addresses: set[str] = set()
    while not (digits / "all/_SUCCESS").exists():
        assert driver.poll() is None
        addresses |= listening_addresses([driver.pid, *descendants(driver.pid)])
        time.sleep(0.1)
    _, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 1, stderr
    assert addresses and addresses <= {"0100007F", "0000000000000000FFFF00000100007F", f"{'0' * 24}01000000"}, addresses
    assert rows_in(digits / "all") == pq.read_table(digits / "local.parquet").to_pylist()
    assert [line for line in stderr.splitlines() if not line.startswith("3,000 files")] == []
    again = run_netkit(*INFER, *ray, "--resume", cwd=digits)
    assert "all: this run is already complete" in again.stderr
    assert again.returncode == 1 and ": 2,970 ok, 30 with an error" in again.stderr, again.stderr
    for other, message in (
        (["few"], "the inputs differ from those of the earlier run (3000 files before, 51 now)"),
        (["images", "--top-k", "2"], "top-k"),
    ):
        rejected = run_netkit("infer", *other, "--model", "model.onnx", *ray, "--resume", cwd=digits)
        assert rejected.returncode == 2 and message in rejected.stderr, rejected.stderr


@contextmanager
def cluster(home: Path, **environment: object) -> Iterator[tuple[str, str]]:
    """Start a Ray cluster on this machine; yield its addresses: one for drivers on this machine, one for clients."""
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("a token that drivers need to connect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name, value in environment.items():
            patch.setenv(name, str(value))
        for attempt in range(START_ATTEMPTS):
            ports = [free_port() for _ in range(2)]
            log = home / f"ray-start-{attempt}.log"
            head = start_head(log, *ports)
            if head.poll() is None:
                break
        assert head.poll() is None, log.read_text()
        try:
            yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
        finally:
            for pid in [*descendants(head.pid), head.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()


def start_head(log: Path, port: int, client_port: int) -> subprocess.Popen[bytes]:
    """Run `ray start --head` until it listens on both ports, or ends."""
    with log.open("wb") as output:
        head = subprocess.Popen(
            [NETKIT.with_name("ray"), "start", "--head", "--block", "--num-cpus", "2", "--include-dashboard", "false",
             "--object-store-memory", str(2**28), "--port", str(port), "--ray-client-server-port", str(client_port),
             "--temp-dir", tempfile.mkdtemp(prefix="ray")],
            stdout=output, stderr=output,
        )  # fmt: skip
    wait_until(lambda: head.poll() is not None or (is_listening(port) and is_listening(client_port)))
    return head


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.slow
def test_an_existing_cluster_gives_the_same_rows(digits: Path, tmp_path: Path) -> None:
    timeouts = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": HANG_S, "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": HANG_S}
    with cluster(tmp_path, **timeouts) as addresses:
        for number, address in enumerate(addresses):
            out = digits / f"existing{number}"
            done = run_netkit(*INFER, *RAY[:-1], out.name, "--address", address, cwd=digits)
            assert done.returncode == 1, done.stderr
            assert [line for line in done.stderr.splitlines() if not line.startswith("3,000 files")] == []
            assert rows_in(out) == pq.read_table(digits / "local.parquet").to_pylist()
        without_token = run_netkit(*INFER, *RAY, "--address", addresses[0], cwd=digits, HOME=str(digits))
    assert without_token.returncode == 2 and "no authentication token was found" in without_token.stderr
    assert "Traceback" not in without_token.stderr


@pytest.mark.slow
def test_the_cause_is_printed_if_the_cluster_starts_no_server_for_a_client(digits: Path, tmp_path: Path) -> None:
    with cluster(tmp_path, RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=0) as (_, address):
        done = run_netkit(*INFER, *RAY, "--address", address, cwd=digits)
    causes = "Proxy failed to Connect to backend!", "Starting Ray client server failed."  # the second on a busy machine
    assert done.returncode == 2 and any(f"RuntimeError: {cause}" in done.stderr for cause in causes), done.stderr
    assert "Traceback" not in done.stderr


def count_parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_loses_no_row_and_little_work(digits: Path, victim: str) -> None:
    out = digits / victim
    command = (*INFER, *RAY[:-1], out)
    driver = subprocess.Popen([NETKIT, *command], cwd=digits, stderr=subprocess.DEVNULL, start_new_session=True)
    while count_parts(out) < 20:
        time.sleep(0.01)
        assert driver.poll() is None
    if victim == "driver":
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        complete = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
        done = run_netkit(*command, "--resume", cwd=digits)
        rewritten = sum(part.stat().st_mtime_ns != mtime for part, mtime in complete.items())
        assert rewritten == 0 and done.returncode == 1, done.stderr
    else:
        actors = [pid for pid, command_line in descendants(driver.pid).items() if b"MapWorker" in command_line]
        os.kill(actors[0], signal.SIGKILL)
        complete = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
        assert driver.wait(timeout=300) == 1
        rewritten = sum(part.stat().st_mtime_ns != mtime for part, mtime in complete.items())
        assert rewritten == 0
    assert [row["path"] for row in rows_in(out)] == [f"images/{number:05}.png" for number in range(COUNT)]
    assert rows_in(out) == pq.read_table(digits / "local.parquet").to_pylist()
    manifest = json.loads((out / "_manifest.json").read_text())
    assert manifest["rows"]["failed"] == COUNT // 100
    assert 2 * manifest["shard size"] <= 0.02 * COUNT  # the unfinished shards of two workers


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "")])
@pytest.mark.parametrize("parts", [0, 5])
def test_a_signal_ends_ray_and_keeps_complete_shards(
    digits: Path, tmp_path: Path, sent: int, code: int, word: str, parts: int
) -> None:
    out = tmp_path / "out"
    driver = subprocess.Popen([NETKIT, *INFER, *RAY[:-1], out], cwd=digits, stderr=subprocess.PIPE, text=True)
    while not (any(b"gcs_server" in line for line in descendants(driver.pid).values()) and count_parts(out) >= parts):
        time.sleep(0.01)
        assert driver.poll() is None
    driver.send_signal(sent)
    ray_processes: dict[int, bytes] = {}
    while driver.poll() is None:  # some processes start after the signal
        ray_processes |= descendants(driver.pid)
        time.sleep(0.02)
    _, stderr = driver.communicate(timeout=60)
    assert len(ray_processes) > 3
    assert driver.returncode == code and word in stderr and "Traceback" not in stderr, stderr
    assert "SIGTERM received" not in stderr, stderr  # from Ray's handler, which aborts the process after 3 s
    assert ("shards are kept; continue with --resume" in stderr) == (parts > 0)
    assert not (out / "_SUCCESS").exists()
    wait_until(lambda: not any(line and command_line_of(pid) == line for pid, line in ray_processes.items()))


def command_line_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_cuda_needs_a_cluster_with_a_gpu(digits: Path) -> None:
    if not missing_cuda_driver():
        pytest.skip("this machine has a CUDA driver")
    done = run_netkit(*INFER, *RAY, "--device", "cuda", cwd=digits)
    assert done.returncode == 1 and "the cluster has no GPU" in done.stderr, done.stderr


@pytest.mark.slow
def test_the_brightness_warning_is_logged_once(digits: Path) -> None:
    done = run_netkit(*INFER, *RAY[:-1], "inverted", "--invert", cwd=digits)
    assert done.stderr.count("omit --invert") == 1, done.stderr


def test_messages_of_several_workers_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    names = "one disk", "another disk"
    messages = [json.dumps([(logging.WARNING, "%s is slow", f"{name} is slow")]) for name in names]
    results = [json.dumps(ShardResult(number).as_dict()) for number in range(4)]
    rows = [{"result": result, "messages": messages[number % 2]} for number, result in enumerate(results)]
    assert [result.number for result in read_results(rows)] == [0, 1, 2, 3]
    assert caplog.record_tuples == [("netkit.infer.cluster.ray_engine", logging.WARNING, "one disk is slow")]


def test_each_actor_has_a_gpu_to_itself() -> None:
    assert pool_for("cuda", 16, 2) == Pool(2, gpu=True) and pool_for("cuda", 1, 2) == Pool(1, gpu=True)
    assert pool_for("auto", 16, 2) == pool_for("cpu", 16, 0) == Pool(16, gpu=False)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(4))  # 4 of 10 hung before the wait had a timeout
def test_a_signal_ends_the_driver_at_once_if_the_cluster_does_not_answer(digits: Path, attempt: int) -> None:
    with socket.create_server(("", 0)) as silent:
        silent.settimeout(60)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = (*INFER, *RAY[:-1], "silent", "--address", address)
        driver = subprocess.Popen([NETKIT, *command], cwd=digits, stderr=subprocess.PIPE, text=True)
        silent.accept()[0].close()  # netkit checks that a server listens
        silent.accept()[0].close()  # Ray connects, and then retries
        driver.terminate()
        _, stderr = driver.communicate(timeout=120)  # Ray retries for more than 240 s
    assert driver.returncode == 143 and stderr.endswith("netkit: terminated\n"), stderr


def test_usage_errors_exit_with_2_and_without_a_traceback(digits: Path) -> None:
    for options, message in (
        (RAY[:2], "--engine ray writes several files"),
        (("--workers", "2"), "--workers and --address are for --engine ray"),
        (("--engine", "spark"), "unknown engine 'spark'"),
        ((*RAY, "--address", "127.0.0.1:1"), "cannot connect to the Ray cluster: [Errno 111] Connection refused"),
        ((*RAY, "--address", "auto"), "--address auto: no Ray cluster runs here; omit --address to start one"),
        ((*RAY, "--threads", "2"), "--threads is for --engine local"),
    ):
        done = run_netkit(*INFER, *options, cwd=digits)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
