"""Random damage to file contents, for tests of the readers."""

from random import Random


def damaged(content: bytes, rng: Random) -> bytes:
    """Flip one bit or four, or delete, repeat or overwrite up to 64 bytes."""
    start = rng.randrange(len(content))
    stop = start + rng.randint(1, 64)
    match rng.randrange(5):
        case 0:
            return content[:start] + content[stop:]
        case 1:
            return content[:stop] + content[start:]
        case 2:
            return content[:start] + rng.randbytes(len(content[start:stop])) + content[stop:]
        case kind:
            flipped = bytearray(content)
            for _ in range(1 if kind == 3 else 4):
                flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
