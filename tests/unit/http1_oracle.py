"""What h11, which knows nothing of us, makes of the same bytes; and bytes for both to read."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h11
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from unit.parsers import COMPLETE, HEAD_MAX, KEPT_MAX, OUT_MAX, TARGET_MAX, Head
from waggle.layout import Kept, Method

GOLDEN = Path(__file__).resolve().parent / "golden" / "http1"
GOLDEN_REQUESTS = sorted(GOLDEN.glob("*.request"))
GOLDEN_RESPONSES = sorted(GOLDEN.glob("*.response"))

# The same examples in every run, few enough for all parser tests to be done in seconds.
bounded = settings(derandomize=True, max_examples=120, deadline=None, database=None)

_TAGS = {
    b"host": Kept.HOST,
    b"user-agent": Kept.USER_AGENT,
    b"x-forwarded-for": Kept.X_FORWARDED_FOR,
    b"x-forwarded-proto": Kept.X_FORWARDED_PROTO,
    b"forwarded": Kept.FORWARDED,
    b"tracestate": Kept.TRACESTATE,
}


def method_of(name: bytes) -> Method:
    """The number of a method that has one, else OTHER."""
    return Method.__members__.get(name.decode(), Method.OTHER)


def _reader(method: bytes | None) -> h11.Connection:
    """h11 as a server, or as a client that asked for something with `method`."""
    room = 4 * HEAD_MAX
    if method is None:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=room)
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=room)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    return connection


def _fields(event: Any) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in event.headers]


def _version(event: Any) -> int:
    return {b"1.0": 10, b"1.1": 11}[bytes(event.http_version)]


def _content_length(fields: Iterable[tuple[bytes, bytes]]) -> int | None:
    lengths = [int(value) for name, value in fields if name == b"content-length"]
    return lengths[0] if lengths else None


def _kept(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    """The fields a record holds, as many and as much of them as there is room for."""
    wanted = [] if method_of(method) else [(int(Kept.METHOD), method)]
    wanted += [(_TAGS[name], value) for name, value in fields if name in _TAGS and value]
    kept, cut, used = [], False, min(len(target), TARGET_MAX)
    for tag, value in wanted:
        cut |= len(value) > KEPT_MAX
        size = 4 + min(len(value), KEPT_MAX)
        if used + size > OUT_MAX:
            cut = True
            continue
        used += size
        kept.append((tag, value[:KEPT_MAX]))
    return {"kept": tuple(kept), "kept_cut": cut}


def expected_request(data: bytes) -> Head:
    """What the kernel should find in `data`, which must begin with a valid request head."""
    connection = _reader(None)
    connection.receive_data(data)
    event: Any = connection.next_event()
    assert isinstance(event, h11.Request), event
    fields = _fields(event)
    parents = [value for name, value in fields if name == b"traceparent"]
    # W3C Trace Context: more than one traceparent is as bad as an invalid one.
    parent = None if not parents else parents[0] if len(parents) == 1 else b""
    return Head(
        verdict=COMPLETE,
        length=len(data) - len(connection.trailing_data[0]),
        version=_version(event),
        method=method_of(event.method),
        content_length=_content_length(fields),
        chunked=any(name == b"transfer-encoding" for name, _ in fields),
        target=bytes(event.target)[:TARGET_MAX],
        target_full_len=len(event.target),
        traceparent=parent,
        **_kept(bytes(event.method), bytes(event.target), fields),
    )


def expected_response(data: bytes) -> Head:
    """What the kernel should find in `data`, which must begin with a valid response head."""
    connection = _reader(b"GET")
    connection.receive_data(data)
    event: Any = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse), event
    fields = _fields(event)
    return Head(
        verdict=COMPLETE,
        length=len(data) - len(connection.trailing_data[0]),
        version=_version(event),
        status=event.status_code,
        content_length=_content_length(fields),
        chunked=any(name == b"transfer-encoding" for name, _ in fields),
    )


def expected_body(data: bytes, method: bytes | None = None) -> tuple[int, int | None]:
    """The size of the body behind the head in `data`, and where in `data` the message ends, None
    when it does not. `method` makes it a response to that, None a request.
    """
    connection = _reader(method)
    connection.receive_data(data)
    length = 0
    while True:
        event: Any = connection.next_event()
        if isinstance(event, h11.Data):
            length += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return length, len(data) - len(connection.trailing_data[0])
        elif event in (h11.NEED_DATA, h11.PAUSED):
            return length, None


# Bytes: heads that a standard permits, laid out in every way it permits.

_TOKEN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
_VISIBLE = bytes(range(0x21, 0x7F))
_FRAMING = {b"content-length", b"transfer-encoding", b"host"}
# Names that begin or end like one that matters.
_DECOYS = [
    *(b"hosts", b"hos", b"user-agents", b"user-agen", b"x-forwarded-fo", b"x-forwarded-for2"),
    *(b"x-forwarded-host", b"forwardedd", b"tracestat", b"traceparents", b"traceparen"),
    *(b"content-lengthy", b"content-lengt", b"content-type", b"transfer", b"x-host", b"xhost"),
    *(b"transfer-encodings", b"transfer-encodin", b"te", b"trailer", b"connection", b"f", b"u"),
]


def _bytes_of(alphabet: bytes, least: int, most: int) -> st.SearchStrategy[bytes]:
    # Texts are drawn much quicker than lists of bytes.
    texts = st.text(alphabet.decode("latin-1"), min_size=least, max_size=most)
    return texts.map(lambda text: text.encode("latin-1"))


blanks = _bytes_of(b" \t", 0, 9)
line_ends = st.sampled_from([b"\r\n", b"\r\n", b"\n"])
values = st.lists(
    _bytes_of(_VISIBLE + bytes(range(0x80, 0x100)), 0, 40), min_size=1, max_size=4
).map(lambda words: b" ".join(words).strip())
_methods = st.one_of(
    st.sampled_from([method.name.encode() for method in Method if method]),
    st.sampled_from([b"PROPFIND", b"M-SEARCH", b"VERSION-CONTROL", b"UPDATEREDIRECTREF"]),
    _bytes_of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-", 3, 23),
)
_targets = st.one_of(
    st.sampled_from([b"/", b"*", b"h:80", b"http://h/a?b", b"/ HTTP/1.1"[:1]]),
    _bytes_of(_VISIBLE, 1, 60),
)
_names = st.one_of(
    st.sampled_from([*sorted(_TAGS.keys() - {b"host"}), b"traceparent"]),
    st.sampled_from(_DECOYS),
    _bytes_of(_TOKEN, 1, 30).filter(lambda name: name.lower() not in _FRAMING),
)
_bodies: st.SearchStrategy[list[tuple[bytes, bytes]]] = st.one_of(
    st.just([]),
    st.integers(0, 10**18 - 1).map(lambda n: [(b"content-length", b"%d" % n)]),
    st.integers(0, 10**6).map(lambda n: [(b"content-length", b"%d" % n)] * 2),
    st.sampled_from([[(b"transfer-encoding", b"chunked")], [(b"transfer-encoding", b"CHUNKED")]]),
    st.just([(b"content-length", b"5"), (b"transfer-encoding", b"Chunked")]),
)


@st.composite
def laid_out(draw: st.DrawFn, name: bytes, value: bytes) -> bytes:
    """One field line, its name in any case, with any blanks around its value."""
    upper = draw(st.integers(0, 2 ** len(name) - 1))
    cased = bytes(
        letter & ~0x20 if upper >> i & 1 and chr(letter).isalpha() else letter
        for i, letter in enumerate(name)
    )
    return cased + b":" + draw(blanks) + value + draw(blanks) + draw(line_ends)


@st.composite
def _heads(draw: st.DrawFn, first: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    fields += draw(st.lists(st.tuples(_names, values), max_size=8))
    fields += draw(_bodies)
    lines = [draw(laid_out(name, value)) for name, value in draw(st.permutations(fields))]
    return first + draw(line_ends) + b"".join(lines) + draw(line_ends)


@st.composite
def request_heads(draw: st.DrawFn) -> bytes:
    """Request heads with any fields in any order and layout."""
    minor = draw(st.sampled_from([b"0", b"1"]))
    first = b"%s %s HTTP/1.%s" % (draw(_methods), draw(_targets), minor)
    host = draw(values.filter(bool))
    return draw(_heads(first, [(b"host", host)]))


@st.composite
def response_heads(draw: st.DrawFn) -> bytes:
    """Response heads, interim ones as well; never a switch of protocols."""
    minor = draw(st.sampled_from([b"0", b"1"]))
    status = draw(st.one_of(st.integers(200, 999), st.sampled_from([100, 102, 103, 204, 304])))
    reason = draw(st.one_of(st.just(b""), _bytes_of(_VISIBLE + b" \t", 0, 30).map(b" ".__add__)))
    return draw(_heads(b"HTTP/1.%s %d%s" % (minor, status, reason), []))


def mutated(originals: Iterable[bytes], seed: int, times: int) -> list[bytes]:
    """Each of `originals` damaged in `times` ways: bytes changed, taken out, repeated, cut."""
    rng = np.random.default_rng(seed)
    return [_damage(original, rng) for original in originals for _ in range(times)]


def _damage(data: bytes, rng: np.random.Generator) -> bytes:
    ways: list[Callable[[bytes, int, int], bytes]] = [
        lambda d, i, _: d[:i],
        lambda d, i, j: d[:i] + d[j:],
        lambda d, i, j: d[:i] + d[j:] + d[i:],
        lambda d, i, j: d[:i] + bytes([j & 0xFF]) + d[i + 1 :],
        lambda d, i, j: d[:i] + b"\r\n \t:\0"[j % 6 : j % 6 + 1] + d[i:],
    ]
    for _ in range(int(rng.integers(1, 4))):
        i, j = (int(n) for n in rng.integers(0, len(data) + 1, 2))
        data = ways[int(rng.integers(len(ways)))](data, i, j)
    return data
