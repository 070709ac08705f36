"""Sources: from what --data says to a DataSet; the only map between the two."""

from pathlib import Path

from nets.data import digits, idx, mnist
from nets.data.dataset import DataSet
from nets.errors import UsageError, unknown_name

BUILT_IN = ("mnist", "digits")


def load(source: str) -> DataSet:
    """The data set that --data names: "mnist", "digits", or a folder of files in MNIST's format.

    Raises UsageError where there is no such source, DataError where its files are missing or damaged.
    """
    if source == "mnist":
        return mnist.load()
    if source == "digits":
        return digits.load()
    if idx.exists(Path(source)):
        return idx.load(Path(source))
    if "/" in source:
        raise UsageError(
            f"{source}: no such folder; --data takes {', '.join(BUILT_IN)} or a folder of files in MNIST's format"
        )
    raise unknown_name("data set", source, [*BUILT_IN, "DIR"])


def spell(data: DataSet) -> str:
    """What --data takes to get `data` again, as short as can be."""
    return data.name if data.name in BUILT_IN else data.source
