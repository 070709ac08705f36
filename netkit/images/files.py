"""Which files count as images by their names, and the images in a folder, for training and inference alike."""

from collections.abc import Iterator
from functools import partial

from netkit.core.walk import Entry, list_folder, walk

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")  # in any case


def is_image_name(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def find_images(folder: str, *, skip_hidden: bool = False) -> Iterator[str]:
    """Yield the paths of everything named like an image in `folder` and its real subfolders, in sorted order.

    What is no image after all comes out too, so that its reader reports it: a subfolder that is named like an image,
    and a folder that cannot be listed. `skip_hidden` leaves out names that begin with a dot.
    """
    return walk([(folder, True)], partial(_images_and_folders, skip_hidden=skip_hidden))


def _images_and_folders(folder: str, *, skip_hidden: bool) -> Iterator[Entry]:
    entries = list_folder(folder, skip_hidden=skip_hidden)  # here rather than in a generator: it may raise OSError
    return (
        (path, is_folder and not is_image_name(path)) for path, is_folder in entries if is_folder or is_image_name(path)
    )
