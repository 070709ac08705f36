"""What can go wrong, as one tree; the command line turns each into one line and an exit code.

NetkitError                 1  everything netkit raises on purpose
├── UsageError              2  the request itself is wrong: an unknown name, a missing folder
│   └── MissingExtraError   2  the command needs a package that this installation lacks
├── DataError               1  a data set is missing, damaged, or another than the one asked for
├── CardError               1  a model card is missing or says something impossible
├── ModelError              1  a weights or .onnx file is damaged, unsafe, or cannot be run here
│   └── OutOfMemoryError    1  it cannot be run on so many images at once
├── ParityError             1  the exported model does not compute what PyTorch computes
├── TrainingError           1  training went astray: the loss is no number any more
├── Interrupted             -  a signal stopped the work, and what was done is kept; 128 and the signal's number
├── DeviceError             1  the device asked for cannot be used; the message names the cause
└── ImageError              1  one input file gives no pixels; it has a code, and becomes a row
"""

from collections.abc import Iterable, Mapping


class NetkitError(Exception):
    """A fault that the message explains to a person: what, where, and what next."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the message and the attributes: subclasses have other arguments."""
        return _unpickled, (type(self), self.args, vars(self))


def _unpickled(cls: type[NetkitError], args: tuple[object, ...], attributes: Mapping[str, object]) -> NetkitError:
    exc = cls.__new__(cls)
    exc.args = args
    vars(exc).update(attributes)
    return exc


class UsageError(NetkitError):
    exit_code = 2


class MissingExtraError(UsageError):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which netkit's extra [{extra}] installs: "
            f"in a checkout of netkit, run: pip install '.[{extra}]'"
        )


class DataError(NetkitError):
    pass


class CardError(NetkitError):
    pass


class ModelError(NetkitError):
    pass


class OutOfMemoryError(ModelError):
    pass


class ParityError(NetkitError):
    pass


class TrainingError(NetkitError):
    pass


class Interrupted(NetkitError):
    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class DeviceError(NetkitError):
    pass


class ImageError(NetkitError):
    """One input that gives no pixels: `code` is a word for programs, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def one_line(text: str) -> str:
    """`text` with control characters spelled out: no path and no model can break a line or move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(exc: BaseException) -> str:
    """The first line of the exception's message, or the name of its class where the message is empty."""
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is none of `known`; offers the closest one."""
    import difflib  # 2 ms that only a mistake should cost

    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")


def raise_stop_behind(fault: ImportError) -> None:
    """Raise the stop that made an import fail: native modules tell so of a signal that comes while they begin."""
    stop = fault.__cause__
    if stop is not None and not isinstance(stop, Exception):
        raise stop
