"""The size of an input image as the nets take it: one number for a square, or height and width."""

from netkit.core.errors import UsageError

Size = int | tuple[int, int]


def height_and_width(size: Size, *, least: int, of: str) -> tuple[int, int]:
    """Height and width in pixels; UsageError, naming the net `of` and its least size, where one is too small."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < least:
        raise UsageError(f"{of} cannot take {height}x{width} images: it needs at least {least}x{least}")
    return height, width
