"""What a process is to whoever started it: streams that cannot fail, signals, each fault as one line and an exit code.

Standard library only.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from netkit.core.errors import MissingExtraError, NetkitError, one_line, raise_stop_behind

TRAIN = ("torch", "torchvision", "safetensors", "sklearn", "matplotlib", "onnxscript", "onnx_ir")
# package -> what installs it
EXTRAS = {
    **dict.fromkeys(TRAIN, "train"),
    "onnxruntime": "cpu",
    "pyarrow": "parquet",
    "jinja2": "report",
    "grpc": "cluster",
}
INTERRUPTED = 130  # exit code: 128 and the signal's number
SOON_S = 0.01


class _Terminated(SystemExit):
    """By SIGTERM or SIGHUP; no Exception, which somebody on the way up might take for a fault."""


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run it and end the process, by the exit code that it gives. No traceback of a fault on purpose reaches a user."""
    _mend_streams()
    threading.excepthook = _thread_failed
    sys.unraisablehook = _swallowed
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _terminated)
    try:
        code = _exit_code(command)
    except KeyboardInterrupt:  # one more, while the first was told
        code = INTERRUPTED
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while all is put away, one more ends the process without a word
    sys.exit(code)


def _exit_code(command: Callable[[], int | None]) -> int | None:
    try:
        return _imported(command)
    except _Terminated as stop:
        return fail("terminated", int(str(stop)))
    except NetkitError as fault:
        return fail(str(fault), fault.exit_code)
    except ModuleNotFoundError as fault:
        package = (fault.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        missing = MissingExtraError(package, EXTRAS[package])
        return fail(str(missing), missing.exit_code)
    except MemoryError:
        return fail("there is not enough memory", NetkitError.exit_code)
    except OSError as fault:
        return fail(f"{fault.filename or 'system'}: {fault.strerror}", NetkitError.exit_code)


def _imported(command: Callable[[], int | None]) -> int | None:
    try:
        return command()
    except ImportError as fault:
        raise_stop_behind(fault)
        raise


def fail(message: str, code: int) -> int:
    """Tell what went wrong, in a line on stderr, with the rank of a process that torchrun started; gives `code`."""
    who = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
    # the line's end in the same write: another thread may have something to tell at that moment
    print(f"netkit: {who}{one_line(message)}\n", end="", file=sys.stderr, flush=True)
    return code


def _thread_failed(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_type is not SystemExit:
        fail(f"{fault.exc_type.__name__}: {fault.exc_value}", NetkitError.exit_code)


def _terminated(number: int, frame: object) -> NoReturn:
    raise _Terminated(128 + number)


def _swallowed(what: "sys.UnraisableHookArgs") -> None:
    """A stop that came where nothing can be raised, in what Python calls when objects go, comes once more."""
    if isinstance(what.exc_value, _Terminated | KeyboardInterrupt):
        terminated = isinstance(what.exc_value, _Terminated)
        number = int(str(what.exc_value)) - 128 if terminated else signal.SIGINT
        again = threading.Timer(SOON_S, _stop_main, (number,))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(what)


def _stop_main(number: int) -> None:
    """Let the signal come to the main thread: if it sleeps or waits, it does so no longer."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def _mend_streams() -> None:
    """Let nothing that is printed fail: what the terminal cannot show is spelled out, a closed stream swallows all."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
