"""The paths of sampling rules as HTTP/2 writes them: in HPACK's Huffman code (RFC 7541, 5.2).

A text has one code, and begins with another text where its code begins with that one's. So the
kernel compares bits and decodes nothing (bpf/hpack_path.h).
"""

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

#: Paths in HPACK's static table, by their number there.
STATIC_PATHS = {4: b"/", 5: b"/index.html"}

_ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def code_bits(path: bytes) -> int:
    """How many bits the path takes."""
    return sum(REQUEST_CODES_LENGTH[byte] for byte in path)


def code_of(path: bytes) -> tuple[bytes, bytes]:
    """The path's code, and of the same length a mask of the bits that are its own."""
    bits = code_bits(path)
    size = (bits + 7) // 8
    mask = ((1 << bits) - 1) << (8 * size - bits)
    code = int.from_bytes(_ENCODER.encode(path), "big") & mask
    return code.to_bytes(size, "big"), mask.to_bytes(size, "big")


def static_paths(path: bytes, *, exact: bool) -> int:
    """One bit for each entry of the static table that a rule is for."""
    return sum(
        1 << number
        for number, entry in STATIC_PATHS.items()
        if entry == path or (not exact and entry.startswith(path))
    )
