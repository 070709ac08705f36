"""Sources: from what --data says to a DataSet; the only map between the two."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from netkit.core.errors import CardError, UsageError, unknown_name
from netkit.core.model_card import Input
from netkit.data import digits, idx, image_folder, mnist
from netkit.data.dataset import DataSet, HeldDataSet
from netkit.data.options import DEFAULT, Options
from netkit.images.decoder import Decoder

BUILT_IN = ("mnist", "digits")


def load(source: str, options: Options = DEFAULT) -> DataSet:
    """The data set that --data names: "mnist", "digits", a folder of files in MNIST's format, or images in files.

    These lie in class folders, or a .csv file lists them. Raises UsageError where there is no such source, DataError
    where its files are missing or damaged.
    """
    path = Path(source)
    if source == "mnist":
        return _made_alike(mnist.load(), options)
    if source == "digits":
        return _made_alike(digits.load(), options)
    if lie_in_files(source):
        return image_folder.load(path, options)
    if idx.exists(path):
        return _made_alike(idx.load(path), options)
    if "/" in source:
        raise UsageError(f"{source}: no such folder; --data takes {', '.join(BUILT_IN)}, a folder or a .csv file")
    raise unknown_name("data set", source, [*BUILT_IN, "DIR", "FILE.csv"])


def lie_in_files(source: str) -> bool:
    """Whether what --data names are images in files of their own: class folders, or a table of them."""
    path = Path(source)
    return source not in BUILT_IN and not idx.exists(path) and (path.is_dir() or path.suffix.lower() == ".csv")


def _made_alike(data: HeldDataSet, options: Options) -> HeldDataSet:
    """A data set that has its own tests, with images of the channels and the size that are asked for."""
    channels, height, width = data.train_images.shape[1:]
    try:
        high, wide = options.size or (height, width)
        wanted = Input(options.channels or channels, high, wide, options.resize)
    except CardError as fault:
        raise UsageError(f"{data.source}: {fault}") from None
    data = replace(data, resize=options.resize, given=options.given)
    if wanted == Input(channels, height, width):
        return data
    decoder = Decoder(wanted)
    train, test = (
        np.stack([decoder(image.transpose(1, 2, 0)) for image in images])
        for images in (data.train_images, data.test_images)
    )
    return replace(data, train_images=train, test_images=test)


def spell(data: DataSet) -> str:
    """What --data takes to get `data` again, as short as can be."""
    return data.name if data.name in BUILT_IN else data.source


def pictures(data: DataSet) -> Path | None:
    """The folder in which its image files lie; None where it has none."""
    if isinstance(data, HeldDataSet):
        return None
    source = Path(data.source)
    return source if source.is_dir() else source.parent
