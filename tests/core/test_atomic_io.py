"""A file is replaced as a whole or not at all, also when its writer raises or is killed."""

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


def test_content_arrives_whole_under_its_name_and_nothing_else_stays(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path, fault: type[BaseException]) -> None:
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(fault), open_atomic(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise fault
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def make_old(path: Path, age_s: int = 3700) -> None:
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)


def test_a_killed_process_leaves_the_old_file_whole_and_at_most_one_temporary_file(tmp_path: Path) -> None:
    """The process is killed ten times in a loop that writes 1 MB of one digit after the other."""
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
        left = [found for found in tmp_path.iterdir() if found != path]
        assert len(left) <= 1
        for temporary in left:
            make_old(temporary)
        write_atomic(path, b"")
        assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/a: there is no folder .*nowhere"):
        write_atomic(tmp_path / "nowhere/a", b"")


def test_what_a_file_cannot_replace_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: not a regular file"):
        write_atomic(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(UsageError, match="a folder, not a file"):
        write_atomic(tmp_path, b"")


def test_a_fault_names_the_file_that_was_asked_for_not_the_temporary_one(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from netkit.core.atomic_io import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: write_atomic(Path(sys.argv[1]), bytes(2000))\n"
        "except OSError as fault: print(fault)"
    )
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert {found: found.read_bytes() for found in tmp_path.iterdir()} == {path: b"old"}


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """They are in one process: their PIDs are equal, as those of two containers may be."""
    path = tmp_path / "a"
    with open_atomic(path) as slow:
        slow.write(b"slow")
        write_atomic(path, b"fast")
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_deletes_old_temporary_files_that_no_process_has_open(tmp_path: Path) -> None:
    stale, young, locked = (f".a.{digit * 16}.tmp" for digit in "0ef")
    others = [".b.0000000000000000.tmp", ".a.000000000000000g.tmp", ".a.00.tmp", ".a.tmp", "a.0000000000000000.tmp"]
    for name in (stale, young, locked, *others):
        (tmp_path / name).write_bytes(b"half")
        make_old(tmp_path / name, age_s=3500 if name == young else 3700)
    with open(tmp_path / locked, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "a", b"new")
        assert {path.name for path in tmp_path.iterdir()} == {"a", young, locked, *others}
    write_atomic(tmp_path / "a", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"a", young, *others}


def test_an_old_temporary_file_stays_while_its_writer_lives(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a") as slow:
        (temporary,) = tmp_path.iterdir()
        make_old(temporary)
        write_atomic(tmp_path / "a", b"fast")
        slow.write(b"slow")
    assert (tmp_path / "a").read_bytes() == b"slow"


def test_a_folder_is_locked_for_one_user_at_a_time(tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(UsageError, match="another run is writing it"), locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass
