"""What the Python servers among the target programs share: the bodies they answer with."""

BIG_BODY = 1 << 20
CHUNK_COUNT = 5


def body(n: int) -> str:
    """The answer to request n: its first word names the number."""
    return f"n={n}\n"


def big(n: int) -> str:
    """`body` padded with dots to BIG_BODY bytes."""
    start = f"n={n} "
    return start + "." * (BIG_BODY - len(start) - 1) + "\n"


def pieces(n: int) -> list[bytes]:
    """The chunks of /chunked/<n>, the first of which is `body(n)`."""
    return [body(n).encode()] + [f"piece {i} of {n}\n".encode() for i in range(1, CHUNK_COUNT)]


def called(n: int, status: int, text: str) -> str:
    """The answer to /call/<n>: what the called server said."""
    return f"n={n} status={status} body={text}"


def forwarded(incoming: str | None, forward: str | None) -> dict[str, str]:
    """Headers for the outgoing call: with forward=1 the incoming traceparent, unchanged."""
    return {"traceparent": incoming} if forward == "1" and incoming else {}
