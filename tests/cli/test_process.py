"""The end of a process: interrupts that come late, and faults of threads, without a traceback."""

import os
import signal
import subprocess
import sys

import pytest

START = "import os, signal, sys, threading; from nets import process\n"
START += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever starts the tests may have it ignored
AGAIN = "lambda *_: os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("def work(): raise KeyboardInterrupt", 130, ""),  # one that comes while the first is being told
        (f"process.fail = {AGAIN}\ndef work(): raise MemoryError", 130, ""),
        (f"def late(): threading.main_thread().join(); ({AGAIN})()\ndef work(): threading.Thread(target=late).start()",
         -signal.SIGINT, ""),
        # as pybind11 has it, where a signal comes while a native module begins
        ("def work(): raise ImportError('initialization failed') from KeyboardInterrupt()", 130, ""),
        ("def work(): raise ImportError('initialization failed') from process._Terminated(143)", 143,
         "netkit: terminated\n"),
        ("def work(): t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", 0,
         "netkit: ZeroDivisionError: division by zero\n"),
        ("def work(): t = threading.Thread(target=sys.exit); t.start(); t.join()", 0, ""),
    ],
)  # fmt: skip
def test_the_end_is_told_in_one_line_or_none(command: str, code: int, told: str) -> None:
    program = f"{START}{command}\nprocess.run(work)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, told)


@pytest.mark.parametrize(("name", "code", "told"), [("SIGTERM", 143, "netkit: terminated\n"), ("SIGINT", 130, "")])
def test_a_stop_that_comes_where_nothing_can_be_raised_is_none_the_less_obeyed(name: str, code: int, told: str) -> None:
    """In a destructor, where Python tells of an exception and goes on."""
    program = f"{START}import time\n"
    program += "class Late:\n    def __del__(self):\n"
    program += f"        os.kill(os.getpid(), signal.{name}); [number for number in range(100)]\n"
    program += "def work(): Late(); time.sleep(60); print('went on')\nprocess.run(work)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)


def test_of_several_processes_each_says_which_it_is() -> None:
    program = f"{START}process.run(lambda: process.fail('no', 2))"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "RANK": "1"}, capture_output=True)
    assert (done.returncode, done.stderr) == (2, b"netkit: rank 1: no\n")


def test_a_parent_that_ignores_interrupts_is_obeyed() -> None:
    program = "import os, signal; from nets import process\n"
    program += f"signal.signal(signal.SIGINT, signal.SIG_IGN); process.run({AGAIN})"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
