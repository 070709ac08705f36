"""Images in files, decoded when they are asked for, for data sets that do not fit into memory."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError, ImageError
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder

AHEAD = 2  # batches that wait for each worker: the queue is bounded


class ImagesInFiles:
    """What an array uint8 (N, channels, height, width) of the images in `paths` would give, by index array or slice.

    Raises DataError where a file has no pixels any more.
    """

    def __init__(self, paths: Sequence[str], decoder: Decoder) -> None:
        self.paths, self.decoder = paths, decoder
        wanted = decoder.input
        self.shape = (len(paths), wanted.channels, wanted.height, wanted.width)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: "slice | NDArray[np.int64]") -> NDArray[np.uint8]:
        indices = np.arange(len(self.paths))[chosen]
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for image, index in zip(images, indices, strict=True):
            try:
                image[:] = self.decoder(self.paths[index])
            except ImageError as fault:
                raise DataError(f"{self.paths[index]}: {fault}; it could be read when training began") from None
        return images


Images = NDArray[np.uint8] | ImagesInFiles


def batches(images: Images, choices: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
    """images[choice] for each choice, in order; what lies in files is decoded ahead, by a thread for each core."""
    if isinstance(images, np.ndarray):
        yield from (images[choice] for choice in choices)
        return
    with ThreadPoolExecutor(workers := usable_cores()) as pool:
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        try:
            for choice in choices:
                waiting.append(pool.submit(images.__getitem__, choice))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def slices(images: Images, size: int) -> Iterator[NDArray[np.uint8]]:
    """All images in order, so many at a time."""
    return batches(images, (np.arange(at, min(at + size, len(images))) for at in range(0, len(images), size)))
