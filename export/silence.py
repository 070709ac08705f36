"""Suppress the messages of torch's exporter, which fill pages, without losing what other threads print and log."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

NOISY_PACKAGES = ("torch", "onnxscript", "onnx_ir")
_LOCK = threading.RLock()  # overlapping blocks of two threads would not restore sys.stdout


@contextmanager
def silent() -> Iterator[None]:
    """Discard what this thread prints in the block, and what NOISY_PACKAGES log in this thread.

    Warnings are ignored in all threads, because Python's filters of warnings cannot tell threads apart.
    """
    thread = threading.get_ident()

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.name.partition(".")[0] not in NOISY_PACKAGES

    with _LOCK, ExitStack() as stack:
        for handler in _log_handlers():
            handler.addFilter(is_wanted)
            stack.callback(handler.removeFilter, is_wanted)
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(redirect_stdout(_OtherThreads(sys.stdout)))
        stack.enter_context(redirect_stderr(_OtherThreads(sys.stderr)))
        yield


def _log_handlers() -> set[logging.Handler]:
    """The handlers that a message of a noisy package can reach."""
    names = [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] in NOISY_PACKAGES]
    loggers = [logging.root, *map(logging.getLogger, names)]
    last_resort = [logging.lastResort] if logging.lastResort else []
    return {*last_resort, *(handler for logger in loggers for handler in logger.handlers)}


class _OtherThreads:
    """A text stream that discards what this thread writes, and passes on what other threads write."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
