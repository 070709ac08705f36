"""Files get their names whole or not at all: after exceptions, and after SIGKILL."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nets.files import write_whole, written_whole


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
        "import sys, itertools; from pathlib import Path; from nets.files import write_whole\n"
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
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere/a", b"")
