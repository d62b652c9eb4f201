"""What the grpcio programs share: the numbered service (see ../go/internal/numbers)."""

import os

SERVICE = "peers.Numbers"
NEXT_HTTP = os.environ.get("PEERS_NEXT_HTTP")  # HOST:PORT that Relay asks by HTTP/1, if any
PARTS = 3
# Which method each kind of call uses, and whether request and response are streams.
METHODS = {
    "one": ("One", False, False),
    "relay": ("Relay", False, False),
    "down": ("Down", False, True),
    "up": ("Up", True, False),
    "both": ("Both", True, True),
    "fail": ("Fail", False, False),
    "cancel": ("Wait", False, False),
    "deadline": ("Wait", False, False),
}
GIVE_UP_S = 0.1
READY_S = 30.0


def message(n: int) -> bytes:
    """A message of call n: n bytes that begin with its number."""
    start = f"{n}:".encode()
    return start.ljust(n, b".")


def number(raw: bytes) -> int:
    """The number of a message."""
    return int(raw.partition(b":")[0])


def failing_code(n: int) -> int:
    """The code that the method Fail answers call n with."""
    return 1 + n % 16


def traceparent(n: int) -> tuple[str, str]:
    """The metadata of a call that brings its own context."""
    return "traceparent", f"00-7ace{n:028x}-5fa0{n:012x}-01"


def check(n: int, answers: list[bytes], wanted: int) -> None:
    """Raises ValueError unless the answers are those of call n."""
    if [number(one) for one in answers] != [n] * wanted or any(
        one != message(n) for one in answers
    ):
        raise ValueError(f"call {n}: answers {[one[:20] for one in answers]}, {wanted} wanted")
