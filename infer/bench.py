"""How fast a model runs here."""

import time

import numpy as np
from numpy.typing import NDArray

from infer.session import Session


def images_per_second(session: Session, images_u8: NDArray[np.uint8], *, least_s: float = 1.0) -> float:
    """Of the network alone, in batches of all `images_u8` (N, C, H, W), over at least `least_s` seconds."""
    session.run(images_u8)  # the first run allocates
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < least_s:
        session.run(images_u8)
        images += len(images_u8)
    return images / (time.perf_counter() - started)
