"""What a tracestate may be (Trace Context 3.3): its members stay in their order; of one that is
too long whole members leave, and one with too many is no tracestate at all.
"""

MOST_MEMBERS = 32  # Trace Context 3.3.1.1


def within_limits(text: bytes, room: int) -> bytes:
    """The members of `text` that fit `room` bytes; empty where there are more than may be.

    A text that fills the room was cut there: its last member is not whole.
    """
    members = text.split(b",")
    if sum(bool(member.strip(b" \t")) for member in members) > MOST_MEMBERS:
        return b""
    if len(text) < room:
        return text
    text = text[:room]
    return text[: max(0, text.rfind(b","))]
