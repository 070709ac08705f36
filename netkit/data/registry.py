"""Load the data set that --data names."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from netkit.core.errors import CardError, UsageError, unknown_name
from netkit.core.model_card import Input
from netkit.core.remote import is_remote, local_path
from netkit.data import digits, idx, image_files, mnist
from netkit.data.dataset import ArrayDataSet, DataSet
from netkit.data.options import DEFAULT, Options
from netkit.data.table import is_table
from netkit.images.decoder import Decoder

BUILT_IN = ("mnist", "digits")
ACCEPTED = "pass mnist, digits, a folder, or a table (.csv or .tsv)"


def load(source: str, options: Options = DEFAULT) -> DataSet:
    """Load the data set that --data names: "mnist", "digits", a folder of files in MNIST's format, or image files.

    Image files are in class folders or listed in a table (.csv or .tsv). A file:// URL counts as its path.
    Raises UsageError if there is no such source, DataError if its files are missing or damaged.
    """
    if not source:
        raise UsageError(f"--data: the name is empty; {ACCEPTED}")
    source = local_path(source)
    if is_remote(source):
        raise UsageError(f"{source}: a data set cannot be a URL; copy it to this machine, or list URLs in a .csv file")
    path = Path(source)
    if source == "mnist":
        return _prepare(mnist.load(), options)
    if source == "digits":
        return _prepare(digits.load(), options)
    if has_image_files(source):
        return image_files.load(path, options)
    if idx.exists(path):
        return _prepare(idx.load(path), options)
    if path.exists():
        raise UsageError(f"{source}: is neither a folder nor a table; {ACCEPTED}")
    if "/" in source or is_table(source):
        raise UsageError(f"{source}: no such {'file' if is_table(source) else 'folder'}; {ACCEPTED}")
    raise UsageError(f"{unknown_name('data set', source, BUILT_IN)}, a folder or a table (.csv or .tsv) that exists")


def require_fitting(source: str, reading: Iterable[str]) -> None:
    """Raise UsageError if a field of Options in `reading`, such as "layout", is not for a data set like `source`."""
    source = local_path(source)
    if source not in BUILT_IN and not Path(source).exists():
        return  # `load` raises the exception
    for name in reading:
        is_for_folders = name == "layout"
        if not has_image_files(source) or is_table(source) == is_for_folders:
            kind = "a folder of images" if is_for_folders else "a table (.csv or .tsv)"
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for {kind}, and {source} is not one; omit the option")


def has_image_files(source: str) -> bool:
    """Whether --data names image files: class folders, or a table that lists them."""
    path = Path(local_path(source))
    exists = path.is_dir() or (is_table(source) and path.exists())
    return exists and source not in ("", *BUILT_IN) and not idx.exists(path)


def _prepare(data: ArrayDataSet, options: Options) -> ArrayDataSet:
    """Convert the images to the size and channels that `options` specifies."""
    try:
        original = Input(*data.train_images.shape[1:])
        height, width = options.size or (original.height, original.width)
        input_spec = Input(options.channels or original.channels, height, width, options.resize)
    except CardError as exc:
        raise UsageError(f"{data.source}: {exc}") from None
    data = replace(data, resize=options.resize, fixed_mean_and_std=options.mean_and_std)
    if input_spec == original:
        return data
    decoder = Decoder(input_spec)
    train, test = (
        np.stack([decoder(image.transpose(1, 2, 0)) for image in images])
        for images in (data.train_images, data.test_images)
    )
    return replace(data, train_images=train, test_images=test)


def data_argument(data: DataSet) -> str:
    """Return the shortest value of --data that loads `data` again."""
    return data.name if data.name in BUILT_IN else data.source
