"""Files get their final name whole or not at all: after an exception, and after a kill."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nets.files import write_whole, written_whole

KILLED_IN_THE_MIDDLE = """
import sys, time
from pathlib import Path
from nets.files import written_whole
with written_whole(Path(sys.argv[1])) as file:
    file.write(b"half of the new ")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_content_arrives_under_the_final_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_whole(path, b"first")
    write_whole(path, b"second, and longer")
    write_whole(path, b"third")
    assert path.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [path]


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with written_whole(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, fault: type[BaseException]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with pytest.raises(fault, match="in the middle"), written_whole(path) as file:
        file.write(b"half of the n")
        raise fault("in the middle")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_killed_in_the_middle_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    program = [sys.executable, "-c", KILLED_IN_THE_MIDDLE, path]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        written = [each.read_bytes() for each in tmp_path.iterdir() if each != path]
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert written == [b"half of the new "]  # the kill came while the bytes were under way, in the same folder
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_in_the_way_stays_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.mkdir()
    with pytest.raises(OSError, match=r"model\.bin"):
        write_whole(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_folder_that_cannot_hold_the_file_is_an_oserror(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    with pytest.raises(OSError, match=parent):
        write_whole(tmp_path / parent / "model.bin", b"new")


def test_a_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    plain.write_bytes(b"")
    write_whole(whole, b"")
    assert stat.filemode(os.stat(whole).st_mode) == stat.filemode(os.stat(plain).st_mode)
