"""Exit codes, and at most one line on stderr, after exceptions and signals at any time."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = "import os, signal, sys, threading; from netkit.cli import process\n"
# the parent process of the tests may ignore these signals
START += "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
INTERRUPT = "lambda *_: os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    ("program", "code", "stderr"),
    [
        # a second interrupt, while the message for the first is printed
        ("def work(): raise KeyboardInterrupt", 130, ""),
        (f"process.fail = {INTERRUPT}\ndef work(): raise MemoryError", 130, ""),
        # an interrupt while Python waits for the last threads
        (f"def late(): threading.main_thread().join(); ({INTERRUPT})()\n"
         "def work(): threading.Thread(target=late).start()", -signal.SIGINT, ""),
        # an exception in the cleanup after a signal
        ("def work():\n try: os.kill(os.getpid(), signal.SIGTERM)\n finally: 1 / 0", 143, "netkit: terminated\n"),
        ("def work():\n try: os.kill(os.getpid(), signal.SIGINT)\n finally: open('/nowhere/a')", 130, ""),
        ("def work(): t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", 0,
         "netkit: internal error: ZeroDivisionError: division by zero\n"),
        ("def work(): t = threading.Thread(target=sys.exit); t.start(); t.join()", 0, ""),
        ("def work(): raise OSError('a sentence\\nand more')", 1, "netkit: input or output failed: a sentence\n"),
        ("def work(): open('/nowhere/a')", 1, "netkit: /nowhere/a: No such file or directory\n"),
    ],
)  # fmt: skip
def test_a_failing_command_prints_at_most_one_line(program: str, code: int, stderr: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{START}{program}\nprocess.run(work)"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, stderr)


STOPS = [("SIGTERM", 143, "netkit: terminated\n"), ("SIGHUP", 129, "netkit: terminated\n"), ("SIGINT", 130, "")]


@pytest.mark.parametrize(("name", "code", "stderr"), STOPS)
@pytest.mark.parametrize("wait", ["time.sleep(60)", "threading.Event().wait(60)"])
def test_a_signal_ends_a_command_even_if_its_exception_is_discarded(
    name: str, code: int, stderr: str, wait: str
) -> None:
    """Python discards exceptions in destructors."""
    program = f"{START}import time\n"
    program += "class Late:\n    def __del__(self):\n"
    program += f"        os.kill(os.getpid(), signal.{name}); [number for number in range(100)]\n"
    program += f"def work(): Late(); {wait}; print('continued')\nprocess.run(work)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", stderr)


def test_a_signal_that_is_sent_again_too_early_ends_a_command() -> None:
    """Python also discards exceptions in the hook that sends the signal again."""
    program = f"{START}import time\npauses_s = [0.2]\n"
    program += "class Early(threading.Timer):\n"
    program += "    def start(self): super().start(); time.sleep(pauses_s.pop() if pauses_s else 0)\n"
    program += "threading.Timer = Early\n"
    program += "class Late:\n    def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n"
    program += "def work(): Late(); time.sleep(60); print('continued')\nprocess.run(work)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "netkit: terminated\n")


DISCARDS = """
import os, signal
try:
    os.kill(os.getpid(), signal.{})
except BaseException:
    print("discarded")
"""


@pytest.mark.parametrize(
    ("name", "code", "stderr"), [*STOPS[:2], ("SIGINT", 130, "netkit: interrupted\n")], ids=lambda value: str(value)
)
def test_a_signal_during_an_import_ends_the_process_at_once(tmp_path: Path, name: str, code: int, stderr: str) -> None:
    """The module discards the exception."""
    (tmp_path / "module.py").write_text(DISCARDS.format(name))
    done = subprocess.run(
        [sys.executable, "-c", f"{START}def work(): import module\nprocess.run(work)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", stderr)


def test_a_signal_during_an_import_shows_the_hidden_cursor_again(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(DISCARDS.format("SIGINT"))
    program = f"{START}from netkit.cli.console import open_terminal\n"
    program += "def work():\n with open_terminal().status('working'): import module\nprocess.run(work)"
    terminal, stderr = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, stderr=stderr, timeout=60)
    os.close(stderr)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert done.returncode == 130
    assert "\x1b[?25l" in shown and shown.endswith("\x1b[?25hnetkit: interrupted\r\n")


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, b"netkit: rank 1: no\n"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, b"netkit: no\n"),  # of another tool
        ({"RANK": "x", "LOCAL_RANK": "", "WORLD_SIZE": ""}, b"netkit: no\n"),
    ],
)
def test_only_processes_of_torchrun_print_their_rank(environment: dict[str, str], line: bytes) -> None:
    program = f"{START}process.run(lambda: process.fail('no', 2))"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True)
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_a_signal_that_the_parent_process_ignores_stays_ignored(name: str) -> None:
    """nohup ignores SIGHUP; a shell's background jobs ignore SIGINT."""
    program = f"import os, signal\nsignal.signal(signal.{name}, signal.SIG_IGN)\nfrom netkit.cli import process\n"
    program += f"process.run(lambda: os.kill(os.getpid(), signal.{name}))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_missing_package_names_the_extra_that_installs_it() -> None:
    program = f"{START}def work(): raise ModuleNotFoundError('no', name='sklearn.datasets')\nprocess.run(work)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("netkit: sklearn is not installed; install netkit's extra [train]")


@pytest.mark.parametrize(("command", "fix"), [("evaluate", "; a smaller --batch-size may help"), ("verify", "")])
def test_out_of_memory_suggests_a_smaller_batch_only_where_the_command_has_that_option(command: str, fix: str) -> None:
    program = "import netkit\nfrom netkit.cli import cli\ndef fail(*arguments, **options): raise MemoryError\n"
    program += f"netkit.{command} = fail\ncli(['{command}', 'model.onnx'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"netkit: out of memory{fix}\n")
