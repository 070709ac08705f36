"""The size of input images: one number for square images, or height and width."""

from netkit.core.errors import UsageError

Size = int | tuple[int, int]


def height_and_width(size: Size, *, least: int, of: str) -> tuple[int, int]:
    """Height and width in pixels. Raises UsageError, with the network's name `of`, if one is below `least`."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < least:
        raise UsageError(f"{of} cannot take {height}x{width} images: it needs at least {least}x{least}")
    return height, width
