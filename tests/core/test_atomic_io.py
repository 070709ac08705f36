"""Atomic writes: a file is replaced completely or not at all, even if its writer raises or is killed."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netkit.core.atomic_io import locked_folder, open_atomic, write_atomic
from netkit.core.errors import UsageError


def test_a_write_replaces_the_file_and_leaves_no_other_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_only_the_old_file(tmp_path: Path, exception: type[BaseException]) -> None:
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(exception), open_atomic(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise exception
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def make_old(path: Path, age_s: int = 3700) -> None:
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)


def test_a_killed_process_leaves_a_complete_file_and_at_most_one_temporary_file(tmp_path: Path) -> None:
    """Ten processes are killed while each rewrites the file in a loop, with 1 MB of a different digit each time."""
    path = tmp_path / "a"
    program = (
        "import sys, itertools; from pathlib import Path; from netkit.core.atomic_io import write_atomic\n"
        "for i in itertools.count(): write_atomic(Path(sys.argv[1]), str(i % 10).encode() * 1_000_000)"
    )
    for round_number in range(10):
        path.write_bytes(b"9" * 1_000_000)
        process = subprocess.Popen([sys.executable, "-c", program, path])
        while path.read_bytes()[:1] == b"9":
            assert process.poll() is None
        time.sleep(0.003 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_bytes()
        assert len(content) == 1_000_000 and len(set(content)) == 1
        temporary_files = [other for other in tmp_path.iterdir() if other != path]
        assert len(temporary_files) <= 1
        for temporary in temporary_files:
            make_old(temporary)
        write_atomic(path, b"")
        assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_default_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_error_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/a: the folder .*nowhere does not exist"):
        write_atomic(tmp_path / "nowhere/a", b"")


def test_pipes_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: is not a regular file"):
        write_atomic(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(UsageError, match="is a folder; pass the name of a file with --out"):
        write_atomic(tmp_path, b"")


def test_a_write_error_names_the_destination_rather_than_the_temporary_file(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from netkit.core.atomic_io import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: write_atomic(Path(sys.argv[1]), bytes(2000))\n"
        "except OSError as exc: print(exc)"
    )
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == {path: b"old"}


def test_concurrent_writers_of_one_file_do_not_conflict(tmp_path: Path) -> None:
    """Both writers have the same process ID, which can also happen in two containers."""
    path = tmp_path / "a"
    with open_atomic(path) as slow:
        slow.write(b"slow")
        write_atomic(path, b"fast")
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_deletes_old_temporary_files_that_no_process_has_locked(tmp_path: Path) -> None:
    stale, recent, locked = (f".a.{digit * 16}.tmp" for digit in "0ef")
    others = [".b.0000000000000000.tmp", ".a.000000000000000g.tmp", ".a.00.tmp", ".a.tmp", "a.0000000000000000.tmp"]
    for name in (stale, recent, locked, *others):
        (tmp_path / name).write_bytes(b"half")
        make_old(tmp_path / name, age_s=3500 if name == recent else 3700)
    with open(tmp_path / locked, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "a", b"new")
        assert {path.name for path in tmp_path.iterdir()} == {"a", recent, locked, *others}
    write_atomic(tmp_path / "a", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"a", recent, *others}


def test_an_old_temporary_file_is_kept_while_its_writer_is_running(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a") as slow:
        (temporary,) = tmp_path.iterdir()
        make_old(temporary)
        write_atomic(tmp_path / "a", b"fast")
        slow.write(b"slow")
    assert (tmp_path / "a").read_bytes() == b"slow"


def test_a_folder_can_be_locked_only_once_at_a_time(tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(UsageError, match="in use by another run"), locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass
