"""What the agent answers to those who ask, and where: without the server, which takes its time to
import (endpoint.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from waggle.errors import UsageError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page answers. body: in pieces."""

    status: HTTPStatus
    content_type: str
    body: Sequence[bytes]


# A page is given the request's Accept header.
Page = Callable[[str], Answer]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. said: as the user wrote it, with what it was written for."""

    host: str
    port: int
    said: str


def parse_address(said: str, name: str) -> Address:
    """HOST:PORT, [::1]:PORT or :PORT (every address). Raises UsageError naming `name`."""
    host, colon, port = said.rpartition(":")
    host = host.strip("[]") if host.startswith("[") else host
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise UsageError(f"{name} {said}: expected HOST:PORT such as 127.0.0.1:9464")
    return Address(host, int(port), f"{name} {said}")
