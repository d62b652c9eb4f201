"""The kernel's parsers in user mode: bpf/*.h compiled for this machine, called through ctypes.

The library is built once for what it is made of (build/tests/parsers-DIGEST.so). Where things lie
in a struct is told by the library itself. Every struct stands between canaries, and what the
buffer holds behind the bytes given is chosen by the test: the kernel's buffers are never cleared.
"""

import ctypes
import functools
import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from waggle.layout import Kept, Method

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "tests" / "unit" / "native"
BUILD = ROOT / "build" / "tests"
COMPILER = "clang-14"
_WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
_LIBRARY = ["-O2", "-fPIC", "-shared"]
_SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# Without clang's runtime library; finds what is undefined, not what is out of bounds.
_TRAPS = ["-O1", "-g", "-fsanitize=undefined", "-fsanitize-trap=undefined"]
_CANARY = bytes(range(0xA0, 0xE0)) * 32
_NO_RUNTIME = "clang's sanitizers are not installed: apt-get install libclang-rt-14-dev"


def _sources() -> list[Path]:
    return sorted([*NATIVE.glob("*.[ch]"), *(ROOT / "bpf").glob("*.h")])


def _build(source: str, flags: Sequence[str]) -> Path:
    """The path of what `source` compiles to; compiled only if anything in it has changed.

    Raises CalledProcessError, with the compiler's words on the terminal, when it does not compile.
    """
    command = [COMPILER, *_WARNINGS, *flags, str(NATIVE / source)]
    contents = [path.read_bytes() for path in _sources()]
    digest = hashlib.sha256(b"\0".join([*(part.encode() for part in command), *contents]))
    path = BUILD / f"{Path(source).stem}-{digest.hexdigest()[:16]}"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            fresh = Path(folder) / path.name
            subprocess.run([*command, "-o", str(fresh)], check=True)
            fresh.replace(path)
    return path


class _Member(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("offset", ctypes.c_uint),
        ("size", ctypes.c_uint),
    )


class _Constant(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_uint))


def _table(of: type[ctypes.Structure], name: str) -> Iterator[ctypes.Structure]:
    """The rows of one of the library's tables, which ends in a row without a name."""
    row = ctypes.pointer(of.in_dll(_LIB, name))
    for i in range(1000):
        if row[i].name is None:
            return
        yield row[i]
    raise AssertionError(f"the table {name} has no end")


_LIB = ctypes.CDLL(str(_build("parsers.c", _LIBRARY)))
_LIB.skip.restype = ctypes.c_ulonglong
_LIB.skip.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
_LIB.examine.restype = ctypes.c_ulonglong
_LIB.examine.argtypes = [ctypes.c_ubyte, ctypes.c_char_p, ctypes.c_uint]
_LIB.tls_records.argtypes = [
    *(ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint),
    *(ctypes.POINTER(ctypes.c_uint), ctypes.c_uint),
]
_MEMBERS = {
    (row.type.decode(), row.name.decode()): (row.offset, row.size)
    for row in _table(_Member, "members")
}
_CONSTANTS = {row.name.decode(): row.value for row in _table(_Constant, "constants")}

INCOMPLETE = _CONSTANTS["HTTP1_INCOMPLETE"]
COMPLETE = _CONSTANTS["HTTP1_COMPLETE"]
NOT_HTTP = _CONSTANTS["HTTP1_NOT_HTTP"]
BAD = _CONSTANTS["HTTP1_BAD"]

AT_HEAD = _CONSTANTS["HTTP1_HEAD"]
IN_LENGTH = _CONSTANTS["HTTP1_LENGTH"]
IN_CHUNK_LINE = _CONSTANTS["HTTP1_CHUNK_LINE"]
IN_CHUNK_DATA = _CONSTANTS["HTTP1_CHUNK_DATA"]
IN_TRAILER = _CONSTANTS["HTTP1_TRAILER"]
UNTIL_CLOSE = _CONSTANTS["HTTP1_UNTIL_CLOSE"]

CONTINUES = _CONSTANTS["HTTP1_CONTINUES"]
DONE = _CONSTANTS["HTTP1_MESSAGE_DONE"]
NONSENSE = _CONSTANTS["HTTP1_NONSENSE"]

HEAD_MAX = _CONSTANTS["HTTP1_HEAD_MAX"]
OUT_MAX = _CONSTANTS["HTTP1_OUT_MAX"]
TARGET_MAX = _CONSTANTS["HTTP1_TARGET_MAX"]
KEPT_MAX = _CONSTANTS["HTTP1_KEPT_MAX"]
METHOD_MAX = _CONSTANTS["HTTP1_METHOD_MAX"]
LINE_WINDOW = _CONSTANTS["HTTP1_LINE_WINDOW"]
TRACEPARENT_LENGTH = _CONSTANTS["TRACEPARENT_LENGTH"]


class Struct:
    """One C struct between canaries. Members are read and written by name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._size = _MEMBERS[name, ""][1]
        self._room = ctypes.create_string_buffer(_CANARY + bytes(self._size) + _CANARY)
        self.address = ctypes.addressof(self._room) + len(_CANARY)

    def __getitem__(self, member: str) -> int:
        return int.from_bytes(self.read(member), "little")

    def __setitem__(self, member: str, value: int) -> None:
        size = _MEMBERS[self._name, member][1]
        self.write(member, value.to_bytes(size, "little"))

    def read(self, member: str, length: int | None = None) -> bytes:
        offset, size = _MEMBERS[self._name, member]
        return ctypes.string_at(self.address + offset, size if length is None else length)

    def write(self, member: str, value: bytes) -> None:
        offset, size = _MEMBERS[self._name, member]
        assert len(value) <= size
        ctypes.memmove(self.address + offset, value, len(value))

    def check_canaries(self) -> None:
        """Nothing before or behind the struct was written to."""
        assert ctypes.string_at(self.address - len(_CANARY), len(_CANARY)) == _CANARY
        assert ctypes.string_at(self.address + self._size, len(_CANARY)) == _CANARY


@dataclass(frozen=True)
class Head:
    """What http1_parse found out about a head; the target and fields as bytes.

    Two heads are equal when a span and the framing made of them would be.
    """

    verdict: int
    length: int
    version: int = 0
    status: int = 0
    method: int = Method.OTHER
    content_length: int | None = None
    chunked: bool = False
    other_encoding: bool = False
    target: bytes = b""
    target_full_len: int = 0
    kept: tuple[tuple[int, bytes], ...] = ()
    kept_cut: bool = False
    traceparent: bytes | None = None


# Behind what was given: line ends, so that a parser that looks there finds heads complete.
LINE_ENDS = b"\r\n\r\n"
# The end of somebody else's head, with fields that matter.
LEFTOVERS = b"\r\nHost: wrong\r\nContent-Length: 77\r\nTransfer-Encoding: chunked\r\n\r\n"


def write_traceparent(trace_id: bytes, span_id: bytes, flags: int) -> bytes:
    """The header line of these ids; nothing behind the room that it asks for is written to."""
    room = ctypes.create_string_buffer(b"\xa5" * 128)
    length = _LIB.write_traceparent(room, trace_id, span_id, ctypes.c_ubyte(flags))
    assert room.raw[length + 8 :].rstrip(b"\0") == b"\xa5" * (128 - length - 8)
    return room.raw[:length]


TRACESTATE_MAX = _CONSTANTS["TRACESTATE_MAX"]


def write_tracestate_prefix(length: int) -> bytes:
    """What stands before a tracestate's value of this length in a header block; nothing behind the
    room that it asks for is written to."""
    room = ctypes.create_string_buffer(b"\xa5" * 64)
    written: int = _LIB.write_tracestate_prefix(room, length)
    assert room.raw[16:64] == b"\xa5" * 48
    return room.raw[:written]


def parse_struct(data: bytes, *, request: bool, behind: bytes = LINE_ENDS) -> Struct:
    """The struct as http1_parse leaves it, proven to have been changed only where it may be."""
    head = Struct("http1_head")
    room = _MEMBERS["http1_head", "bytes"][1]
    filled = data + (behind * (room // len(behind) + 1))[: room - len(data)]
    prefix = b"\x5a" * _MEMBERS["http1_head", "prefix"][1]
    head.write("bytes", filled)
    head.write("prefix", prefix)
    _LIB.parse_head(ctypes.c_void_p(head.address), len(data), int(request))
    head.check_canaries()
    assert head.read("bytes") == filled
    assert head.read("prefix") == prefix
    return head


def parse_head(data: bytes, *, request: bool = True, behind: bytes = LINE_ENDS) -> Head:
    """Parses `data`, which may be a head, a part of one or anything else."""
    head = parse_struct(data, request=request, behind=behind)
    verdict = head["verdict"]
    if verdict != COMPLETE:
        return Head(verdict, 0)
    out = head.read("out", head["out_used"])
    at = head["traceparent"]
    end = at + head["traceparent_len"]
    assert end <= len(data)
    return Head(
        verdict=verdict,
        length=head["length"],
        version=head["version"],
        status=head["status"],
        method=head["method"],
        content_length=head["content_length"] if head["has_length"] else None,
        chunked=bool(head["chunked"]),
        other_encoding=bool(head["other_encoding"]),
        target=out[: head["target_len"]],
        target_full_len=head["target_full_len"],
        kept=tuple(_kept_fields(out[head["target_len"] :])),
        kept_cut=bool(head["kept_cut"]),
        traceparent=data[at:end] if at else None,
    )


def _kept_fields(kept: bytes) -> Iterator[tuple[int, bytes]]:
    """{ tag, zero, length, bytes } each, to the last byte."""
    while kept:
        tag, zero, length = struct.unpack_from("<BBH", kept)
        assert zero == 0
        assert 4 + length <= len(kept)
        yield Kept(tag), kept[4 : 4 + length]
        kept = kept[4 + length :]


def may_begin_request(data: bytes) -> bool:
    """The kernel's guess at whether `data`, perhaps cut short, begins a request."""
    return bool(_LIB.may_begin_request(data, len(data)))


@dataclass(frozen=True)
class TraceContext:
    """What a valid traceparent says."""

    trace_id: str
    span_id: str
    flags: int


def parse_traceparent(value: bytes, behind: bytes = b"0") -> TraceContext | None:
    """None when the value is to be ignored. `behind` repeats in the memory after the value."""
    text = value + behind * 64
    context = Struct("trace_context")
    valid = _LIB.traceparent(text, len(value), ctypes.c_void_p(context.address))
    context.check_canaries()
    assert bool(valid) == bool(context["valid"])
    if not valid:
        return None
    ids = context.read("trace_id").hex(), context.read("span_id").hex()
    return TraceContext(*ids, context["flags"])


@dataclass(frozen=True)
class Incoming:
    """A valid context of another format. sampled: None where whoever called did not say."""

    trace_id: str
    span_id: str
    sampled: bool | None
    link: int


def parse_format(kind: str, *fields: bytes) -> Incoming | None:
    """What a request with these header lines says in one format: read_format in parsers.c."""
    head = parse_struct(b"GET / HTTP/1.1\r\n" + b"\r\n".join((*fields, b"", b"")), request=True)
    assert head["verdict"] == COMPLETE
    context = Struct("trace_context")
    valid = _LIB.read_format(
        ctypes.c_void_p(head.address), ord(kind), ctypes.c_void_p(context.address)
    )
    context.check_canaries()
    head.check_canaries()
    assert bool(valid) == bool(context["valid"])
    if not valid:
        return None
    assert context["flags"] in (0, 1)
    sampled = None if context["undecided"] else bool(context["flags"])
    ids = context.read("trace_id").hex(), context.read("span_id").hex()
    return Incoming(*ids, sampled, context["link"])


TRACESTATE_LOOKED_AT = _CONSTANTS["TRACESTATE_LOOKED_AT"]


class SaidOfSampling(NamedTuple):
    """What a tracestate means: trace_context.sampling and .random."""

    sampling: int
    random: int


def parse_tracestate(value: bytes, trace_id: bytes, flags: int) -> SaidOfSampling:
    """What the kernel makes of a request with this traceparent and tracestate."""
    traceparent = f"00-{trace_id.hex()}-{'1' * 16}-{flags:02x}".encode()
    data = b"GET / HTTP/1.1\r\ntracestate: " + value + b"\r\n\r\n"
    head = parse_struct(data, request=True)
    assert head["verdict"] == COMPLETE
    context = Struct("trace_context")
    text = traceparent + b"0" * 64
    assert _LIB.traceparent(text, len(traceparent), ctypes.c_void_p(context.address))
    if head["tracestate"]:
        _LIB.tracestate(ctypes.c_void_p(head.address), ctypes.c_void_p(context.address))
    context.check_canaries()
    return SaidOfSampling(context["sampling"], context["random"])


class Body:
    """The framing after one head, fed as the kernel feeds it: counted parts are skipped whole,
    lines are read in windows.

    `length` is the body's size without framing, `outcome` one of CONTINUES, DONE, NONSENSE.
    """

    def __init__(self) -> None:
        self._stream = Struct("http1_stream")
        self._lines = Struct("http1_lines")
        self._line_ends = 0
        self.outcome = CONTINUES

    @classmethod
    def after(cls, head: Struct, *, request: bool, method: int = Method.GET) -> "Body":
        """The body that follows a parsed head; `method` is what a response answers."""
        body = cls()
        stream, given = ctypes.c_void_p(body._stream.address), ctypes.c_void_p(head.address)
        if request:
            body.outcome = _LIB.enter_request_body(stream, given)
        else:
            body.outcome = _LIB.enter_response_body(stream, given, int(method))
        return body

    @classmethod
    def of_chunks(cls) -> "Body":
        body = cls()
        _LIB.enter_chunk_line(ctypes.c_void_p(body._stream.address))
        return body

    @property
    def state(self) -> int:
        return self._stream["state"]

    @property
    def remain(self) -> int:
        return self._stream["remain"]

    @property
    def length(self) -> int:
        return self._stream["body"] - self._line_ends

    def feed(self, piece: bytes) -> int:
        """Takes bytes until the body ends or they do; returns how many were taken."""
        at = 0
        while at < len(piece) and self.outcome == CONTINUES:
            at += self._feed_some(piece[at:])
        self._stream.check_canaries()
        self._lines.check_canaries()
        return at

    def _feed_some(self, piece: bytes) -> int:
        if self.state == UNTIL_CLOSE:
            self._stream["body"] += len(piece)
            return len(piece)
        if self.state in (IN_LENGTH, IN_CHUNK_DATA):
            return self._skip(piece)
        return self._read_lines(piece)

    def _skip(self, piece: bytes) -> int:
        stream = ctypes.c_void_p(self._stream.address)
        taken: int = _LIB.skip(stream, len(piece))
        if self.remain:
            return taken
        if self.state == IN_LENGTH:
            self.outcome = DONE
            return taken
        self._line_ends += 2
        _LIB.enter_chunk_line(stream)
        return taken

    def _read_lines(self, piece: bytes) -> int:
        window = piece[:LINE_WINDOW]
        self._lines["length"] = len(window)
        self._lines.write("bytes", window)
        _LIB.read_lines(ctypes.c_void_p(self._stream.address), ctypes.c_void_p(self._lines.address))
        self.outcome = self._lines["outcome"]
        assert self._lines["taken"] <= len(window)
        return self._lines["taken"]


Case = tuple[bytes, bytes]
"""A kind ("Q", "S", "C", "T", "M", "2" or "G", see parsers.c) and bytes."""


@functools.cache
def has_sanitizers() -> bool:
    """Whether clang can link AddressSanitizer here."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("int main(void) { return 0; }\n")
        command = [COMPILER, *_SANITIZERS, str(source), "-o", str(source.with_suffix(""))]
        return subprocess.run(command, capture_output=True).returncode == 0


def check_under_sanitizers(cases: Iterable[Case]) -> None:
    """Every case runs clean under the sanitizers and finds what the plain library finds.

    Where clang has no AddressSanitizer the cases run with traps on undefined behaviour, and then
    the test is skipped, to say that reads out of bounds were not looked for.
    """
    cases = list(cases)
    program = _build("replay.c", _SANITIZERS if has_sanitizers() else _TRAPS)
    stdin = b"".join(kind + struct.pack("=I", len(data)) + data for kind, data in cases)
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0"}
    run = subprocess.run([program], input=stdin, capture_output=True, env=env)
    assert run.returncode == 0, run.stderr.decode(errors="replace")
    found = [int(line, 16) for line in run.stdout.split()]
    assert found == [_LIB.examine(kind[0], data, len(data)) for kind, data in cases]
    if not has_sanitizers():
        pytest.skip(_NO_RUNTIME)


TALK_HEADER = struct.Struct("=IIIIQIIIIIIIIIIIII4x16s8s")
BLOCK_MAX = _CONSTANTS["HPACK_BLOCK_MAX"]
FIELDS_MAX = _CONSTANTS["HPACK_FIELDS_MAX"]


class Found(NamedTuple):
    """One thing the machine of HTTP/2 found; see struct talk_entry."""

    event: int
    stream: int
    position: int
    flags: int
    control: int
    known: int
    insertions: int
    status: int
    first: int
    bad: int
    changes: int
    messages: int
    data: int
    length: int
    valid: int
    link: int
    undecided: int
    trace_flags: int
    trace_id: bytes
    span_id: bytes
    block: bytes


def block_sender(block: bytes) -> int:
    """Whose header block that is, by its beginning: 1 the client's, 2 the server's, 0 unsaid."""
    return int(_LIB.block_sender(block, len(block)))


class BlockPath(NamedTuple):
    """What a header block says of its path; see block_path() in native/parsers.c."""

    suits: int
    static: int
    entry: int
    repeated: int


def block_path(block: bytes, rule: bytes, known: int = 0) -> BlockPath:
    """rule: a struct waggle_sample_rule. known: entries of the table before the block."""
    told = (ctypes.c_uint32 * 4)()
    _LIB.block_path(block, len(block), known, rule, told)
    return BlockPath._make(told)


FIELD_LENGTH = _CONSTANTS["TRACEPARENT_FIELD"]
PLACE_STREAMS = _CONSTANTS["PLACE_STREAMS"]


class Grown(NamedTuple):
    """What is sent instead of a message, and what was found in it (struct growing)."""

    sent: bytes
    verdict: int
    stream: int
    later: int
    has_context: int
    list_size: int
    streams: tuple[int, ...]


class Talk:
    """One direction of an HTTP/2 connection, fed as the kernel feeds it, call by call."""

    PLACE_NONE, PLACE_FOUND, PLACE_CUT, PLACE_PADDED, PLACE_LARGE = range(5)
    FOUND_DATA_END, FOUND_BLOCK, FOUND_RESET, FOUND_GOAWAY, NONSENSE, LOST_BLOCK = range(2, 8)

    def __init__(self, *, preface: bool = True) -> None:
        self._talk = Struct("http2_talk")
        _LIB.talk_begin(ctypes.c_void_p(self._talk.address), int(preface))

    def feed(self, piece: bytes) -> None:
        _LIB.talk_feed(ctypes.c_void_p(self._talk.address), piece, len(piece))

    def grow(self, message: bytes, trace_id: bytes, span_id: bytes, flags: int) -> Grown:
        """What is sent instead of this message of a client's: see native/http2_growing.h."""
        told = (ctypes.c_uint * (7 + PLACE_STREAMS))()
        size = len(message) + FIELD_LENGTH * PLACE_STREAMS + 8
        room = ctypes.create_string_buffer(b"\xa5" * size)
        given = ctypes.create_string_buffer(message, len(message))
        ids = trace_id + span_id + bytes([flags])
        _LIB.talk_grow(ctypes.c_void_p(self._talk.address), given, len(message), ids, room, told)
        verdict, stream, later, has_context, list_size, length, count = told[:7]
        assert room.raw[length:].rstrip(b"\0").strip(b"\xa5") == b""
        streams = tuple(told[7 : 7 + count])
        sent = room.raw[:length]
        return Grown(sent, verdict, stream, later, has_context, list_size, streams)

    def found(self) -> list[Found]:
        self._talk.check_canaries()
        log, at, entries = self._talk.read("found", self._talk["used"]), 0, []
        while at < len(log):
            fields = TALK_HEADER.unpack_from(log, at)
            at += TALK_HEADER.size
            length = fields[13]
            entries.append(Found._make((*fields, log[at : at + length])))
            at += length
        return entries


def tls_records(stream: bytes, step: int) -> list[tuple[int, int]]:
    """Where records of TLS begin, and the lengths of their payloads: of a stream that comes in
    pieces of `step` bytes, up to what is no record."""
    room = len(stream) // 5 + 1
    found = (ctypes.c_uint * (2 * room))()
    count = _LIB.tls_records(stream, len(stream), step, found, room)
    return [(found[2 * i], found[2 * i + 1]) for i in range(count)]


def tls_version(greeting: bytes) -> int:
    """What a server's greeting agrees on: 1 to 4 for TLS 1.0 to 1.3, 0 where it does not say."""
    return int(_LIB.tls_greeting(greeting, len(greeting), (ctypes.c_uint * 2)()))


def tls_server_name(greeting: bytes) -> bytes | None:
    """What a client's greeting calls the server; None where it does not, or not in these bytes."""
    name = (ctypes.c_uint * 2)()
    _LIB.tls_greeting(greeting, len(greeting), name)
    found = greeting[name[0] : name[0] + name[1]]
    return found if name[0] and len(found) == name[1] else None


def tls_expiry(record: bytes) -> bytes | None:
    """When a server's certificate expires, as a record of its handshake has it; None: not there."""
    size = ctypes.c_uint()
    at = int(_LIB.tls_expiry(record, len(record), ctypes.byref(size)))
    return record[at : at + size.value] if at else None


def tls_says_little(version: int, length: int) -> bool:
    """Whether a client's record of `length` bytes holds no request. version: as tls_version()."""
    return bool(_LIB.tls_little(version, length))


def tls_next_protocol(greeting: bytes) -> bytes | None:
    """The protocol that a server agrees on (ALPN) in the clear; None where it does not."""
    found = (ctypes.c_uint * 2)()
    _LIB.tls_greeting(greeting, len(greeting), found)
    protocol = greeting[found[0] : found[0] + found[1]]
    return protocol if found[0] and len(protocol) == found[1] else None


def tls_begins(first: bytes, *, from_start: bool) -> bool:
    """Whether a connection may be one of TLS whose first bytes, or those of a call, are these."""
    return bool(_LIB.tls_begins(first, len(first), int(from_start)))


def uwsgi_begins(first: bytes) -> bool:
    """Whether a connection that begins so begins with a request by uWSGI's protocol."""
    return bool(_LIB.uwsgi_begins(first, len(first)))
