"""Images that are decoded from their files on each use, for data sets that do not fit in memory."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError, ImageError
from netkit.core.ordered_map import ordered_map
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder

PREFETCH_PER_THREAD = 2  # images or batches


class ImagesInFiles:
    """The images in `paths`, indexed like an array uint8 (N, channels, height, width) by a slice or an index array.

    Indexing raises DataError if a file can no longer be decoded.
    """

    def __init__(self, paths: Sequence[str], decoder: Decoder) -> None:
        self.paths, self.decoder = paths, decoder
        self.shape = (len(paths), decoder.input.channels, decoder.input.height, decoder.input.width)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: "slice | NDArray[np.int64]") -> NDArray[np.uint8]:
        positions = np.arange(len(self.paths))[indices]
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        for image, index in zip(images, positions, strict=True):
            image[:] = self.decode(self.paths[index])
        return images

    def decode(self, path: str) -> NDArray[np.uint8]:
        try:
            return self.decoder(path)
        except ImageError as exc:
            raise DataError(f"{path}: {exc}; it was readable when the data set was loaded") from None


Images = NDArray[np.uint8] | ImagesInFiles


def batches(images: Images, index_arrays: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
    """Yield `images[indices]` for each index array, in order. Files are decoded ahead, with one thread per core."""
    if isinstance(images, np.ndarray):
        yield from (images[indices] for indices in index_arrays)
        return
    workers = usable_cores()
    yield from ordered_map(
        ThreadPoolExecutor(workers), images.__getitem__, index_arrays, window=PREFETCH_PER_THREAD * workers
    )
