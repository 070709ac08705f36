"""Files get their names whole or not at all: after exceptions, and after SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netkit.core.atomic_io import write_whole, written_whole
from netkit.core.errors import UsageError


def test_content_arrives_whole_under_its_name_and_nothing_else_stays(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"old")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path, fault: type[BaseException]) -> None:
    write_whole(tmp_path / "a", b"old")
    with pytest.raises(fault), written_whole(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise fault
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_killed_process_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """Killed ten times in the midst of a loop that writes 1 MB of one digit after the other."""
    path = tmp_path / "a"
    program = (
        "import sys, itertools; from pathlib import Path; from netkit.core.atomic_io import write_whole\n"
        "for i in itertools.count(): write_whole(Path(sys.argv[1]), str(i % 10).encode() * 1_000_000)"
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


def test_the_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/a: there is no folder .*nowhere"):
        write_whole(tmp_path / "nowhere/a", b"")


def test_what_a_file_cannot_replace_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: not a regular file"):
        write_whole(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(UsageError, match="a folder, not a file"):
        write_whole(tmp_path, b"")


def test_a_fault_names_the_file_that_was_asked_for_not_the_temporary_one(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from netkit.core.atomic_io import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: write_whole(Path(sys.argv[1]), bytes(2000))\n"
        "except OSError as fault: print(fault)"
    )
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert {found: found.read_bytes() for found in tmp_path.iterdir()} == {path: b"old"}


def test_what_killed_writers_left_goes_with_the_next_write_and_what_others_are_writing_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".a.{dead.pid}.tmp", f".a.{2**70}.tmp"]
    kept = [f".a.{os.getppid()}.tmp", f".b.{dead.pid}.tmp", ".a.x.tmp", ".a.tmp", f"a.{dead.pid}.tmp"]
    for name in (*left, *kept):
        (tmp_path / name).write_bytes(b"half")
    write_whole(tmp_path / "a", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"a", *kept}
