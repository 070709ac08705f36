"""Signals, standard streams and exit codes of a command. Expected exceptions become one line on stderr.

Standard library only.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import NoReturn

from netkit.core.errors import MissingExtraError, NetkitError, first_line, one_line

PACKAGES = {
    "train": ("torch", "torchvision", "safetensors", "sklearn", "matplotlib", "onnxscript", "onnx_ir"),
    "cpu": ("onnxruntime",),
    "parquet": ("pyarrow",),
    "remote": ("fsspec",),
    "cluster": ("ray", "grpc"),
    "report": ("jinja2",),
    "tensorboard": ("tensorboard",),
    "timm": ("timm",),
}
EXTRAS = {package: extra for extra, packages in PACKAGES.items() for package in packages}
INTERRUPTED = 128 + signal.SIGINT  # exit code
RESEND_AFTER_S = 0.01
END_PROGRESS = "\r\x1b[2K\x1b[?25h"  # clears the terminal's line and shows the cursor


class Terminated(SystemExit):
    """SIGTERM or SIGHUP arrived. A SystemExit, so that `except Exception` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run `command` and exit with the code that it returns, or with the exit code of its exception.

    Expected exceptions, and all exceptions in threads, become one line on stderr without a traceback. SIGINT raises
    KeyboardInterrupt; SIGTERM and SIGHUP raise `Terminated`. Signals that are ignored at the start, as
    under nohup, stay ignored.
    """
    _make_streams_safe()
    threading.excepthook = _print_thread_exception
    sys.unraisablehook = _resend_signal
    try:
        code = _exit_code(command)
    except KeyboardInterrupt:  # a second one, while the message for the first is printed
        code = INTERRUPTED
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on Ctrl-C ends the process without a traceback
    sys.exit(code)


def _exit_code(command: Callable[[], int | None]) -> int | None:
    try:
        _handle_signals()
        try:
            return command()
        except Exception as exc:
            if stop := _signal_exception(exc):
                raise stop from None
            raise
    except Terminated as exc:
        return fail("terminated", 128 + exc.number, exc)
    except NetkitError as exc:
        return fail(str(exc), exc.exit_code, exc)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        missing = MissingExtraError(package, EXTRAS[package])
        return fail(str(missing), missing.exit_code)
    except MemoryError as exc:
        return fail("out of memory", NetkitError.exit_code, exc)
    except OSError as exc:
        where = exc.filename or "input or output failed"  # standard output, for example, has no file name
        return fail(f"{where}: {exc.strerror or first_line(exc)}", NetkitError.exit_code, exc)


def _signal_exception(exc: BaseException | None) -> BaseException | None:
    """Return the exception of a signal in the context of `exc`, or None.

    Python's locks, for example, raise RuntimeError when a signal interrupts their release.
    """
    while exc is not None and not isinstance(exc, KeyboardInterrupt | Terminated):
        exc = exc.__context__
    return exc


def fail(message: str, code: int, exc: BaseException | None = None) -> int:
    """Print `message` and the notes of `exc`, each as one line on stderr. Returns `code`.

    The lines contain the rank if torchrun started this process.
    """
    lines = [message, *getattr(exc, "__notes__", ())]
    # a single write, because another thread may print at the same time
    print("".join(map(_line, lines)), end="", file=sys.stderr, flush=True)
    return code


def _line(message: str) -> str:
    set_by_torchrun = all(os.environ.get(name, "").isdecimal() for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    rank = f"rank {os.environ['RANK']}: " if set_by_torchrun else ""  # other tools set RANK, too
    return f"netkit: {rank}{one_line(message)}\n"


def _print_thread_exception(thrown: threading.ExceptHookArgs) -> None:
    if thrown.exc_type is not SystemExit:
        fail(f"internal error: {thrown.exc_type.__name__}: {thrown.exc_value}", NetkitError.exit_code)


def _handle_signals() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    running = set(_running_code(frame))
    if any(code.co_filename == "<frozen importlib._bootstrap>" for code in running):
        _exit_at_once(number)
    if _resend_signal.__code__ in running:  # Python would discard the exception again
        _send_later(number)
        return
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def _running_code(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _exit_at_once(number: int) -> NoReturn:
    """End the process in the middle of an import.

    Raising an exception does not work: native modules abort the process or discard the exception, and a partly imported
    module makes other modules fail later.
    """
    message = "interrupted" if number == signal.SIGINT else "terminated"
    try:
        line = (END_PROGRESS if sys.stderr.isatty() else "") + _line(message)
        os.write(sys.stderr.fileno(), line.encode())  # print() fails inside another print()
    finally:
        os._exit(128 + number)


def _resend_signal(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a signal again if Python discarded its exception, as it does in destructors."""
    exc = unraisable.exc_value
    if isinstance(exc, KeyboardInterrupt | Terminated):
        _send_later(exc.number if isinstance(exc, Terminated) else signal.SIGINT)
    else:
        sys.__unraisablehook__(unraisable)


def _send_later(number: int) -> None:
    timer = threading.Timer(RESEND_AFTER_S, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _make_streams_safe() -> None:
    """Escape characters that a stream cannot encode, and replace streams that the parent process closed."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
