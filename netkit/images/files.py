"""Which files count as images, and how to find them in a folder. Training and inference use the same rules."""

from collections.abc import Iterator
from functools import partial

from netkit.core.walk import Entry, list_folder, walk

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")  # upper or lower case


def is_image_name(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def find_images(folder: str, *, skip_hidden: bool = False) -> Iterator[str]:
    """Yield the paths of everything named like an image in `folder` and its subfolders, in sorted order.

    Symbolic links to folders are not followed. Two kinds of folders are yielded too, so that the decoder reports them:
    those that are named like an image and those that cannot be listed. `skip_hidden` skips names that begin with a dot.
    """
    return walk([(folder, True)], partial(_images_and_folders, skip_hidden=skip_hidden))


def _images_and_folders(folder: str, *, skip_hidden: bool) -> Iterator[Entry]:
    entries = list_folder(folder, skip_hidden=skip_hidden)  # not inside the generator, because it may raise OSError
    return (
        (path, is_folder and not is_image_name(path)) for path, is_folder in entries if is_folder or is_image_name(path)
    )
