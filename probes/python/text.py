"""The characters of a str of CPython, from its bytes in memory."""

_LENGTH, _STATE = slice(0, 8), slice(16, 20)  # the str from its length on: length, hash, state
_FROM = 16  # of the object: where its length is
_ASCII, _COMPACT = 1 << 6, 1 << 5
_KIND_SHIFT, _KIND_MASK = 2, 7
_CODECS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
# What others have before their characters, beside what ASCII has: the UTF-8 that was made
# of them, its length, and before 3.12 one length more (where `text` is 48).
_WIDER = {40: 16, 48: 24}


def read_str(raw: bytes, text: int) -> str | None:
    """A str whose bytes from its length on begin with `raw`; None when it cannot be read whole.

    text: where in the object the characters of an ASCII str are (table.py).
    """
    if len(raw) < _STATE.stop or text not in _WIDER:
        return None
    length = int.from_bytes(raw[_LENGTH], "little")
    state = int.from_bytes(raw[_STATE], "little")
    kind = state >> _KIND_SHIFT & _KIND_MASK
    if not state & _COMPACT or kind not in _CODECS:
        return None
    begin = text - _FROM + (0 if state & _ASCII else _WIDER[text])
    data = raw[begin : begin + kind * length]
    if len(data) < kind * length:
        return None
    return data.decode(_CODECS[kind], "surrogatepass")
