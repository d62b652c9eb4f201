"""Kept fields that only user space writes: what a stream means beyond an HTTP/1 exchange.

A resolved record's head is what an HTTP/1 record's is: the target, then kept fields
(waggle.h: tag, 0, length, value). The tags here begin above those of layout.Kept.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from waggle import layout
from waggle.spans import OWN_TEXT


class StreamKept(IntEnum):
    """Tags of kept fields; texts but for STREAM and MESSAGE_TIMES."""

    SCHEME = 64  # where it is not http
    RPC_SYSTEM = 65  # of rpc.system.name
    RPC_METHOD = 66  # package.Service/Method
    RPC_STATUS = 67  # the code by its number, as grpc-status has it
    RPC_MESSAGE = 68  # grpc-message, as it was sent
    STREAM = 70
    MESSAGE_TIMES = 71
    RPC_TIMEOUT = OWN_TEXT  # grpc-timeout, as it was sent


assert min(StreamKept) > max(layout.Kept)


class Known(IntEnum):
    """How a call's status is known."""

    NOT = 0
    SENT = 1  # grpc-status
    RESET = 2  # by the code of a RST_STREAM
    HTTP = 3  # by the status of HTTP
    DEADLINE = 4  # given up when grpc-timeout had passed
    CONNECTION = 5  # the connection ended, or a GOAWAY refused it


class Stream(NamedTuple):
    """StreamKept.STREAM: numbers of the stream that belong to its shape.

    error: of RST_STREAM or GOAWAY. requests, responses: messages of gRPC. unknown: fields
    of header blocks that could not be decoded. known: how the status is known. told_by:
    whose memory has the path (names.py: ToldBy).
    """

    error: int = 0
    requests: int = 0
    responses: int = 0
    unknown: int = 0
    known: int = 0
    flags: int = 0  # layout.Http2Flag
    told_by: int = 0

    def packed(self) -> bytes:
        return _STREAM.pack(*self)

    @classmethod
    def of(cls, raw: bytes) -> "Stream":
        return cls(*_STREAM.unpack(raw)) if len(raw) == _STREAM.size else cls()


class MessageTimes(NamedTuple):
    """StreamKept.MESSAGE_TIMES: CLOCK_MONOTONIC in ns, 0 for none (waggle.h)."""

    first_request: int
    first_response: int
    last_request: int
    last_response: int

    def packed(self) -> bytes:
        return _TIMES.pack(*self)

    @classmethod
    def of(cls, raw: bytes) -> "MessageTimes | None":
        return cls(*_TIMES.unpack(raw)) if len(raw) == _TIMES.size else None


_STREAM = struct.Struct("<IIIHBBB")
_TIMES = struct.Struct("<QQQQ")


def kept_field(tag: int, value: bytes) -> bytes:
    """One kept field as records have it."""
    return bytes((tag, 0)) + len(value).to_bytes(2, "little") + value
