"""The size of input images: one number for square images, or height and width."""

from netkit.core.errors import UsageError

Size = int | tuple[int, int]


def height_and_width(size: Size, *, min_side: int, arch: str) -> tuple[int, int]:
    """Return height and width in pixels. Raises UsageError, with the name of the network, below `min_side`."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < min_side:
        raise UsageError(f"{arch} cannot take {height}x{width} images: pass --image-size {min_side} or larger")
    return height, width
