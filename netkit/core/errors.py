"""The exceptions that netkit raises. The command line turns each into one line and an exit code.

NetkitError                 1  base class of all exceptions that netkit raises itself
├── UsageError              2  the request is wrong: an unknown name, a missing folder
│   └── MissingExtraError   2  the command needs a package that is not installed
├── DataError               1  a data set is missing or damaged, or is not the expected one
├── CardError               1  a model card is missing or has invalid values
├── ModelError              1  a weights or .onnx file is damaged or unsafe, or cannot run on this machine
│   └── OutOfMemoryError    1  there is not enough memory for this batch size
├── ParityError             1  the outputs of the exported model differ from those of PyTorch
├── TrainingError           1  the training diverged: the loss is NaN or infinite
├── Interrupted             -  a signal stopped the work; finished results are kept. 128 + the signal's number
├── DeviceError             1  the requested device cannot be used; the message names the cause
└── ImageError              1  an image file cannot be read or decoded; the results contain its `code`
"""

from collections.abc import Iterable, Mapping

MIN_SIMILARITY = 0.75  # of a name to the one that is suggested instead: two letters of four may be swapped


class NetkitError(Exception):
    """The message says what is wrong, names the file or value, and says how to fix it."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the message and the attributes, because the constructors of subclasses take different arguments."""
        return _unpickle, (type(self), self.args, vars(self))


def _unpickle(cls: type[NetkitError], args: tuple[object, ...], attributes: Mapping[str, object]) -> NetkitError:
    exc = cls.__new__(cls)
    exc.args = args
    vars(exc).update(attributes)
    return exc


class UsageError(NetkitError):
    exit_code = 2


class MissingExtraError(UsageError):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install netkit's extra [{extra}]: "
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
    """An image cannot be read or decoded. `code` is the status in the results, such as "truncated".

    `fix` is advice for `netkit infer`, which takes other files than images, too.
    """

    def __init__(self, code: str, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def one_line(text: str) -> str:
    """Return `text` with control characters escaped, so that a file name cannot break a line or move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(exc: BaseException) -> str:
    """Return the first line of the exception's message, or the name of its class if the message is empty."""
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that is not in `known`. Its message suggests one that begins so or is close."""
    import difflib  # here, because the import takes 2 ms and only this error needs it

    names = list(known)
    begin = [known_name for known_name in names if name and known_name.startswith(name.lower())]
    close = begin or difflib.get_close_matches(name.lower(), names, n=1, cutoff=MIN_SIMILARITY)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
