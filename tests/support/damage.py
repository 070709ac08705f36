"""What happens to files on disks and wires, for the tests of those who read them."""

from random import Random


def damaged(content: bytes, chance: Random) -> bytes:
    """With one bit or four flipped, or a stretch of up to 64 bytes left out, doubled or overwritten."""
    start = chance.randrange(len(content))
    stop = start + chance.randint(1, 64)
    match chance.randrange(5):
        case 0:
            return content[:start] + content[stop:]
        case 1:
            return content[:stop] + content[start:]
        case 2:
            return content[:start] + chance.randbytes(len(content[start:stop])) + content[stop:]
        case kind:
            flipped = bytearray(content)
            for _ in range(1 if kind == 3 else 4):
                flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            return bytes(flipped)
