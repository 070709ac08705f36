"""The first signal is delayed, the second is not."""

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
with stopping.delayed_signals() as stop:
    assert stop() is None
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    print("still running", stop(), flush=True)
print(signal.getsignal(signal.SIGTERM).__name__)
"""


@pytest.mark.parametrize(("signals", "code", "output"), [(0, 0, "None"), (1, 0, "15"), (2, 9, None)])
def test_first_signal_is_delayed_and_second_stops_immediately(signals: int, code: int, output: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(signals)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout == (f"still running {output}\n<lambda>\n" if output else "")


@pytest.fixture
def default_sigint_handler() -> Iterator[None]:
    """Python's default handler, which is missing in a background process."""
    earlier_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier_handler)


@pytest.mark.usefixtures("default_sigint_handler")
def test_second_ctrl_c_raises_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), stopping.delayed_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was delayed, too")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
