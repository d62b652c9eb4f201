"""HTTP/1 bodies: how many bytes lie between one head and the next, however they are cut."""

from itertools import pairwise
from pathlib import Path

import h11
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.http1_oracle import GOLDEN_RESPONSES, bounded, expected_body, mutated
from unit.parsers import (
    AT_HEAD,
    CONTINUES,
    DONE,
    IN_CHUNK_DATA,
    IN_CHUNK_LINE,
    IN_LENGTH,
    IN_TRAILER,
    LINE_WINDOW,
    NONSENSE,
    UNTIL_CLOSE,
    Body,
    Case,
    check_under_sanitizers,
    parse_struct,
)
from waggle.layout import Method

CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\n\r\n"


def after_request(*fields: bytes) -> Body:
    head = b"\r\n".join([b"POST / HTTP/1.1", *fields, b"", b""])
    return Body.after(parse_struct(head, request=True), request=True)


def after_response(method: Method, status: int, *fields: bytes) -> Body:
    head = b"\r\n".join([b"HTTP/1.1 %d x" % status, *fields, b"", b""])
    return Body.after(parse_struct(head, request=False), request=False, method=method)


def feed_cut(body: Body, data: bytes, cuts: list[int]) -> int:
    """Feeds `data` in pieces; returns how much of it was taken before the end."""
    taken = 0
    for begin, end in pairwise([0, *sorted(cuts), len(data)]):
        if body.outcome != CONTINUES:
            break
        taken += body.feed(data[begin:end])
    return taken


# What follows a head.

LENGTH, ZERO = b"Content-Length: 5", b"Content-Length: 0"
CHUNKED, GZIP = b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"
CODED, CODED_LAST = b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip"


@pytest.mark.parametrize(
    ("fields", "outcome", "state", "remain"),
    [
        ([], DONE, AT_HEAD, 0),
        ([ZERO], DONE, AT_HEAD, 0),
        ([LENGTH], CONTINUES, IN_LENGTH, 5),
        ([b"Content-Length: 999999999999999999"], CONTINUES, IN_LENGTH, 10**18 - 1),
        ([CHUNKED], CONTINUES, IN_CHUNK_LINE, 0),
        ([CODED], CONTINUES, IN_CHUNK_LINE, 0),
        ([LENGTH, CHUNKED], CONTINUES, IN_CHUNK_LINE, 0),
        ([CHUNKED, LENGTH], CONTINUES, IN_CHUNK_LINE, 0),
        ([GZIP], NONSENSE, AT_HEAD, 0),
        ([CODED_LAST], NONSENSE, AT_HEAD, 0),
        ([LENGTH, GZIP], NONSENSE, AT_HEAD, 0),
    ],
)
def test_after_request_heads(fields: list[bytes], outcome: int, state: int, remain: int) -> None:
    """RFC 9112 section 6.3: how a request's body is framed."""
    body = after_request(*fields)
    assert (body.outcome, body.state, body.remain) == (outcome, state, remain)


@pytest.mark.parametrize(
    ("fields", "outcome", "state", "remain"),
    [
        ([], CONTINUES, UNTIL_CLOSE, 0),
        ([ZERO], DONE, AT_HEAD, 0),
        ([LENGTH], CONTINUES, IN_LENGTH, 5),
        ([CHUNKED], CONTINUES, IN_CHUNK_LINE, 0),
        ([CODED], CONTINUES, IN_CHUNK_LINE, 0),
        ([LENGTH, CHUNKED], CONTINUES, IN_CHUNK_LINE, 0),
        ([GZIP], CONTINUES, UNTIL_CLOSE, 0),
        ([CODED_LAST], CONTINUES, UNTIL_CLOSE, 0),
        ([LENGTH, GZIP], CONTINUES, UNTIL_CLOSE, 0),
        ([ZERO, GZIP], CONTINUES, UNTIL_CLOSE, 0),
    ],
)
def test_after_response_heads(fields: list[bytes], outcome: int, state: int, remain: int) -> None:
    """RFC 9112 section 6.3: how a response's body is framed, and where there is none at all."""
    for status in (200, 206, 301, 404, 500):
        for method in (Method.GET, Method.POST, Method.OPTIONS, Method.OTHER):
            body = after_response(method, status, *fields)
            assert (body.outcome, body.state, body.remain) == (outcome, state, remain)
        body = after_response(Method.HEAD, status, *fields)
        assert (body.outcome, body.state, body.remain) == (DONE, AT_HEAD, 0)
    for status in (204, 304):
        body = after_response(Method.GET, status, *fields)
        assert (body.outcome, body.state, body.remain) == (DONE, AT_HEAD, 0)


@bounded
@given(
    st.sampled_from([Method.GET, Method.HEAD, Method.POST, Method.DELETE]),
    st.sampled_from([200, 201, 204, 206, 302, 304, 400, 404, 500, 503]),
    st.sampled_from([[], [ZERO], [LENGTH], [CHUNKED], [LENGTH, CHUNKED]]),
    st.sampled_from([b"", b"hello", b"hel", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"3\r\nab"]),
    st.booleans(),
)
def test_responses_end_where_h11_ends_them(
    method: Method, status: int, fields: list[bytes], rest: bytes, chunks_only: bool
) -> None:
    """A whole response, head and body: the same size and end as h11 finds."""
    if CHUNKED in fields and not rest[:1].isdigit():
        rest = b"0\r\n\r\n" * chunks_only
    head = b"\r\n".join([b"HTTP/1.1 %d x" % status, *fields, b"", b""])
    size, end = expected_body(head + rest, method.name.encode())
    body = Body.after(parse_struct(head, request=False), request=False, method=method)
    taken = body.feed(rest)
    assert body.length == size
    assert (body.outcome == DONE) == (end is not None)
    assert end is None or len(head) + taken == end


@pytest.mark.parametrize("path", GOLDEN_RESPONSES, ids=lambda path: path.stem)
def test_golden_framing(path: Path) -> None:
    """What a real server announced is followed to the end that h11 sees."""
    method = Method.HEAD if path.stem.endswith("-head") else Method.GET
    data = path.read_bytes()
    body = Body.after(parse_struct(data, request=False), request=False, method=method)
    rest = b"d\r\n" + b"a" * 13 + b"\r\n0\r\n\r\n" if body.state == IN_CHUNK_LINE else b"a" * 9999
    size, end = expected_body(data + rest, method.name.encode())
    taken = body.feed(rest)
    assert (body.length, body.outcome == DONE) == (size, end is not None)
    assert end is None or len(data) + taken == end


# Bodies by length.


@bounded
@given(st.integers(1, 5000), st.lists(st.integers(0, 6000), max_size=10))
def test_counted_bodies(length: int, cuts: list[int]) -> None:
    """A body by length takes exactly that many bytes, however they are cut."""
    data = b"a" * length + NEXT
    body = after_request(b"Content-Length: %d" % length)
    assert feed_cut(body, data, [cut for cut in cuts if cut <= len(data)]) == length
    assert (body.outcome, body.length) == (DONE, length)


def test_until_close() -> None:
    """A body until close takes all there is and has no end of its own."""
    body = after_response(Method.GET, 200)
    assert body.feed(b"a" * 1000) == 1000
    assert body.feed(NEXT) == len(NEXT)
    assert (body.outcome, body.length) == (CONTINUES, 1000 + len(NEXT))


# Chunks.

_SIZES = st.sampled_from([b"%x", b"%X", b"0%x", b"00000%X", b"%012x"])
_EXTENSIONS = st.one_of(
    st.just(b""),
    st.sampled_from([b";a", b";a=b", b';a="b c;d"', b";ieof", b";" + b"x" * 200, b";5=0;5"]),
)
_TRAILERS = st.lists(
    st.sampled_from([b"X: y", b"Expires: now", b"Content-Length: 5", b"5: 0", b"L: " + b"x" * 300]),
    max_size=3,
)
_CHUNKS = st.lists(st.tuples(st.integers(1, 300), _SIZES, _EXTENSIONS), max_size=6)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, int]:
    """A chunked body, with extensions and trailers, and its size."""
    data, size = b"", 0
    for length, form, extension in draw(_CHUNKS):
        # Data that looks like framing, since framing must not be looked for in it.
        content = (b"0\r\n\r\n5\r\n" * (length // 8 + 1))[:length]
        data += form % length + extension + b"\r\n" + content + b"\r\n"
        size += length
    data += draw(st.sampled_from([b"0", b"00", b"0000000000"])) + draw(_EXTENSIONS) + b"\r\n"
    data += b"".join(line + b"\r\n" for line in draw(_TRAILERS)) + b"\r\n"
    return data, size


@bounded
@given(chunked_bodies(), st.lists(st.integers(0, 3000), max_size=12))
def test_chunks_end_where_h11_ends_them(chunked: tuple[bytes, int], cuts: list[int]) -> None:
    """A chunked body cut anywhere has the size and the end that h11 finds."""
    data, size = chunked
    assert expected_body(CHUNKED_HEAD + data + NEXT) == (size, len(CHUNKED_HEAD) + len(data))
    body = Body.of_chunks()
    taken = feed_cut(body, data + NEXT, [cut for cut in cuts if cut <= len(data)])
    assert (body.outcome, taken, body.length, body.state) == (DONE, len(data), size, AT_HEAD)


SAMPLE = (
    b"5\r\nhello\r\n01;a=b\r\n-\r\n00b ; x\r\n0\r\n\r\n5\r\n0\r\n\r\n"
    b"0\r\nX: y\r\nLong: " + b"z" * 2 * LINE_WINDOW + b"\r\n\r\n"
)


def test_every_cut_of_chunks() -> None:
    """One cut at any place, and a cut at every place, change nothing."""
    for cut in range(len(SAMPLE) + 1):
        body = Body.of_chunks()
        assert feed_cut(body, SAMPLE + NEXT, [cut]) == len(SAMPLE)
        assert (body.outcome, body.length) == (DONE, 17)
    body = Body.of_chunks()
    assert feed_cut(body, SAMPLE + NEXT, list(range(len(SAMPLE)))) == len(SAMPLE)
    assert (body.outcome, body.length) == (DONE, 17)


def test_every_prefix_of_chunks_continues() -> None:
    """A chunked body without its last bytes is neither done nor nonsense."""
    for cut in range(len(SAMPLE)):
        body = Body.of_chunks()
        assert body.feed(SAMPLE[:cut]) == cut
        assert body.outcome == CONTINUES


def test_states_of_chunks() -> None:
    """The states passed are size, data with its line end, size, trailer, head."""
    body = Body.of_chunks()
    seen = []
    for piece in (b"5", b"\r\n", b"hello\r", b"\n", b"0\r\n", b"X: y\r\n"):
        body.feed(piece)
        seen.append((body.state, body.remain))
    assert seen == [
        (IN_CHUNK_LINE, 5),
        (IN_CHUNK_DATA, 7),
        (IN_CHUNK_DATA, 1),
        (IN_CHUNK_LINE, 0),
        (IN_TRAILER, 0),
        (IN_TRAILER, 0),
    ]
    assert (body.feed(b"\r\n"), body.outcome, body.state) == (2, DONE, AT_HEAD)


def test_bare_line_feeds_in_framing() -> None:
    """A size or a trailer may end in a line feed alone."""
    data = b"5\nhello\r\n0\nX: y\n\n"
    body = Body.of_chunks()
    assert (body.feed(data + NEXT), body.outcome, body.length) == (len(data), DONE, 5)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 254, 255, 256, 257, 511, 512, 513, 70000])
def test_length_of_trailers(length: int) -> None:
    """A trailer line of any length is a line: only an empty one ends the body."""
    body = Body.of_chunks()
    data = b"0\r\n" + b"x" * length + b"\r\n\r\n"
    assert (body.feed(data + NEXT), body.outcome) == (len(data), DONE)


@pytest.mark.parametrize("zeros", [0, 1, 14, 15, 16, 63, 64, 65, 300])
def test_leading_zeros_of_sizes(zeros: int) -> None:
    """Zeros before a size change nothing, however many they are."""
    body = Body.of_chunks()
    data = b"0" * zeros + b"5\r\nhello\r\n" + b"0" * (zeros + 1) + b"\r\n\r\n"
    assert (body.feed(data + NEXT), body.outcome, body.length) == (len(data), DONE, 5)


@pytest.mark.parametrize("digits", range(1, 16))
def test_largest_sizes(digits: int) -> None:
    """A size of up to fifteen digits is taken as it is."""
    body = Body.of_chunks()
    body.feed(b"f" * digits + b"\r\n")
    assert (body.outcome, body.state) == (CONTINUES, IN_CHUNK_DATA)
    assert body.remain == 16**digits - 1 + 2


@pytest.mark.parametrize(
    "data",
    [
        *(b"\r\n", b"\n", b";a\r\n", b" 5\r\n", b"\t5\r\n", b"g\r\n", b"-5\r\n", b"+5\r\n"),
        *(b"0x5\r\n", b"5g\r\n", b"5:\r\n", b"5\x0b\r\n", b"5\0\r\n", b"\x805\r\n", b"5,\r\n"),
        *(b"hello", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"/", b":", b"@", b"`"),
        *(b"f" * 16, b"1" + b"0" * 15, b"f" * 17, b"000" + b"f" * 16, b"1" + b"0" * 200),
        *(b"5\r\nhello5\r\n\r\n", b"5\r\nhello\r\n\r\n", b"1\r\nhello\r\n"),
    ],
)
def test_nonsense_for_chunks(data: bytes) -> None:
    """What is no size, or too large a one, ends it, in one piece or byte by byte."""
    for cuts in ([], list(range(len(data)))):
        body = Body.of_chunks()
        feed_cut(body, data, cuts)
        assert body.outcome == NONSENSE


@bounded
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_cuts_never_matter(data: bytes, cuts: list[int]) -> None:
    """Any bytes at all, cut anywhere, come to the same end."""
    whole, parts = Body.of_chunks(), Body.of_chunks()
    taken = whole.feed(data)
    assert feed_cut(parts, data, [cut for cut in cuts if cut <= len(data)]) == taken
    found = [(body.outcome, body.length, body.state, body.remain) for body in (whole, parts)]
    assert found[0] == found[1]


@bounded
@given(chunked_bodies(), st.integers(0, 1000))
def test_what_h11_accepts_is_no_nonsense(chunked: tuple[bytes, int], seed: int) -> None:
    """Of damaged bodies, those that h11 still reads to an end end at the same place here."""
    (data,) = mutated([chunked[0]], seed, 1)
    try:
        size, end = expected_body(CHUNKED_HEAD + data)
    except h11.RemoteProtocolError:
        return
    body = Body.of_chunks()
    taken = body.feed(data)
    if end is not None:
        assert (body.outcome, body.length) == (DONE, size)
        assert len(CHUNKED_HEAD) + taken == end


def test_chunks_under_sanitizers() -> None:
    """No bytes make the reader of chunks read or write out of bounds or overflow."""
    rng = np.random.default_rng(4)
    cases: list[Case] = [(b"C", data) for data in mutated([SAMPLE], 5, 1500)]
    cases += [(b"C", rng.bytes(n)) for n in rng.integers(0, 300, 500)]
    cases += [(b"C", bytes(rng.choice(list(b"0f\r\n; x"), n))) for n in range(300)]
    cases += [(b"C", b"f" * n + b"\r\n" + b"a" * 100) for n in range(20)]
    check_under_sanitizers(cases)
