"""Signals that wait until the step has ended; and the second one, which does not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from netkit.nets.training import stopping

PROGRAM = """
import os, signal, sys, time
from netkit.nets.training import stopping
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(9))
with stopping.noted() as stop:
    assert stop() is None
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    print("working on", stop(), flush=True)
print(signal.getsignal(signal.SIGTERM).__name__)
"""


@pytest.mark.parametrize(("signals", "code", "output"), [(0, 0, "None"), (1, 0, "15"), (2, 9, None)])
def test_the_first_signal_is_noted_and_the_second_stops_at_once(signals: int, code: int, output: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(signals)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout == (f"working on {output}\n<lambda>\n" if output else "")


@pytest.fixture
def attended() -> Iterator[None]:
    """Python's own way with Ctrl-C, which a process in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("attended")
def test_ctrl_c_twice_is_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), stopping.noted() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was noted, too")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
