"""HTTP/1 heads: the kernel's parser, compiled for user mode, against h11 and to its limits."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.http1_oracle import (
    GOLDEN_REQUESTS,
    GOLDEN_RESPONSES,
    bounded,
    expected_request,
    expected_response,
    mutated,
    request_heads,
    response_heads,
)
from unit.parsers import (
    BAD,
    COMPLETE,
    HEAD_MAX,
    INCOMPLETE,
    KEPT_MAX,
    LEFTOVERS,
    METHOD_MAX,
    NOT_HTTP,
    OUT_MAX,
    TARGET_MAX,
    Case,
    Head,
    check_under_sanitizers,
    may_begin_request,
    parse_head,
)
from waggle.layout import Kept, Method

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BLANKS = [b" " * n for n in range(10)] + [b"\t" * n for n in range(10)] + [b" \t" * 4 + b" "]
KNOWN = [method.name.encode() for method in Method if method]
UNKNOWN = [b"PROPFIND", b"M-SEARCH", b"VERSION-CONTROL", b"ACL", b"ABCDEFGHIJKLMNOPQRSTUVW"]


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return request(*fields, line=line)


def framing(head: Head) -> tuple[int, int | None, bool, bool]:
    return head.verdict, head.content_length, head.chunked, head.other_encoding


# Real heads.


@pytest.mark.parametrize("path", GOLDEN_REQUESTS, ids=lambda path: path.stem)
def test_golden_requests(path: Path) -> None:
    """What a real client sent is read as h11 reads it."""
    data = path.read_bytes()
    assert parse_head(data + b"body") == expected_request(data + b"body")


@pytest.mark.parametrize("path", GOLDEN_RESPONSES, ids=lambda path: path.stem)
def test_golden_responses(path: Path) -> None:
    """What a real server answered is read as h11 reads it."""
    data = path.read_bytes()
    assert parse_head(data + b"body", request=False) == expected_response(data + b"body")


def test_golden_is_read_to_the_letter() -> None:
    """A head of Firefox gives exactly this, whatever any oracle says."""
    data = (GOLDEN_REQUESTS[0].parent / "firefox.request").read_bytes()
    agent = b"Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"
    assert parse_head(data) == Head(
        verdict=COMPLETE,
        length=len(data),
        version=11,
        method=Method.GET,
        target=b"/n/1?q=a%20b",
        target_full_len=12,
        kept=((Kept.HOST, b"127.0.0.1:34649"), (Kept.USER_AGENT, agent)),
    )


@pytest.mark.parametrize("path", GOLDEN_REQUESTS + GOLDEN_RESPONSES, ids=lambda path: path.name)
def test_every_prefix_of_golden_is_incomplete(path: Path) -> None:
    """A real head is not judged before its last byte, whatever lies behind the bytes so far."""
    data = path.read_bytes()
    for cut in range(len(data)):
        head = parse_head(data[:cut], request=path.suffix == ".request")
        assert head.verdict == INCOMPLETE, cut


# Any head.


@bounded
@given(request_heads(), st.binary(max_size=20))
def test_requests_as_h11_reads_them(head: bytes, rest: bytes) -> None:
    """Any valid request head, however it is laid out, is read as h11 reads it."""
    assert parse_head(head + rest, behind=LEFTOVERS) == expected_request(head + rest)


@bounded
@given(response_heads(), st.binary(max_size=20))
def test_responses_as_h11_reads_them(head: bytes, rest: bytes) -> None:
    """Any valid response head, however it is laid out, is read as h11 reads it."""
    found = parse_head(head + rest, request=False, behind=LEFTOVERS)
    assert found == expected_response(head + rest)


@bounded
@given(st.one_of(request_heads(), response_heads()), st.data())
def test_every_prefix_is_incomplete(head: bytes, data: st.DataObject) -> None:
    """A valid head cut anywhere is incomplete: neither complete, nor judged."""
    is_request = not head.startswith(b"HTTP/1.")
    for cut in data.draw(st.lists(st.integers(0, len(head) - 1), max_size=40)):
        assert parse_head(head[:cut], request=is_request).verdict == INCOMPLETE


@bounded
@given(st.one_of(st.binary(max_size=400), request_heads(), response_heads()), st.booleans())
def test_leftovers_do_not_matter(data: bytes, is_request: bool) -> None:
    """What an earlier head left in the buffer behind the bytes given changes nothing."""
    found = [
        parse_head(data, request=is_request, behind=behind)
        for behind in (b"\0", b"\xff", b" ", b"\r\n", b"\n", b"5", LEFTOVERS)
    ]
    assert found == found[:1] * len(found)


@bounded
@given(st.binary(max_size=2000), st.booleans())
def test_random_bytes_are_harmless(data: bytes, is_request: bool) -> None:
    """Any bytes get a verdict, and nothing is written but what was found."""
    verdict = parse_head(data, request=is_request).verdict
    assert verdict in (INCOMPLETE, NOT_HTTP, BAD) or b"HTTP/1." in data


def test_random_bytes_under_sanitizers() -> None:
    """No bytes, random or nearly a head, make the parser read or write out of bounds."""
    rng = np.random.default_rng(1)
    requests = [path.read_bytes() for path in GOLDEN_REQUESTS]
    responses = [path.read_bytes() for path in GOLDEN_RESPONSES]
    full = [request(b"X: " + b"a" * n, b"Host: h") for n in range(HEAD_MAX - 60, HEAD_MAX)]
    cases: list[Case] = [(b"Q", data) for data in full + mutated(requests, 2, 60)]
    cases += [(b"S", data) for data in mutated(responses, 3, 20)]
    cases += [(b"Q", b"GET / HTTP/1.1\n" + rng.bytes(n)) for n in rng.integers(0, HEAD_MAX, 200)]
    cases += [(b"S", b"HTTP/1.1 200 \n" + rng.bytes(n)) for n in rng.integers(0, HEAD_MAX, 100)]
    cases += [(kind, rng.bytes(HEAD_MAX)) for kind in (b"Q", b"S") for _ in range(50)]
    cases += [(b"M", rng.bytes(n)) for n in rng.integers(0, 12, 200)]
    check_under_sanitizers(cases)


# The first line.


@pytest.mark.parametrize("method", KNOWN + UNKNOWN)
def test_methods(method: bytes) -> None:
    """A method with a number is known by it, any other is kept as text."""
    head = parse_head(request(line=method + b" /x HTTP/1.1"))
    kept = () if method in KNOWN else ((Kept.METHOD, method),)
    assert (head.verdict, head.method, head.target, head.kept) == (
        COMPLETE,
        Method[method.decode()] if method in KNOWN else Method.OTHER,
        b"/x",
        kept,
    )


@pytest.mark.parametrize("length", range(1, 30))
def test_length_of_methods(length: int) -> None:
    """Methods have at most METHOD_MAX - 1 letters; what has more is not HTTP."""
    method = b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG"[:length]
    head = parse_head(request(line=method + b" / HTTP/1.1"))
    if length < METHOD_MAX:
        assert (head.verdict, head.kept) == (COMPLETE, ((Kept.METHOD, method),))
    else:
        assert head.verdict == NOT_HTTP


@pytest.mark.parametrize("method", [b"G", b"GE", b"GETT", b"get", b"Get", b"HEADS", b"POSTS"])
def test_methods_are_compared_whole(method: bytes) -> None:
    """Methods are case-sensitive, and a part of a known one is not it."""
    head = parse_head(request(line=method + b" / HTTP/1.1"))
    assert (head.method, head.kept) == (Method.OTHER, ((Kept.METHOD, method),))


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET /", b"GET / ", b"GET HTTP/1.1", b"GET  HTTP/1.1", b"GET", b" GET / HTTP/1.1", b" "),
        *(b"GET / HTTP/2.0", b"GET / HTTP/1.2", b"GET / HTTP/1.", b"GET / HTTP/11", b"GET / HTTP"),
        *(b"GET / http/1.1", b"GET / HTTP/1.1 ", b"GET / XHTTP/1.1", b"GET /HTTP/1.1"),
        *(b"PRI * HTTP/2.0", b"HTTP/1.1 200 OK", b"EHLO example.org", b"SSH-2.0-OpenSSH_9.2"),
        *(b"GET /\0HTTP/1.1", b"\x16\x03\x01\x02\x00", b"*3", b"+OK", b"x", b"get"),
    ],
)
def test_no_request_line(line: bytes) -> None:
    """What is no request line is no HTTP, as soon as the line has ended."""
    for end in (b"\r\n", b"\n"):
        assert parse_head(line).verdict == INCOMPLETE
        assert parse_head(line + end).verdict == NOT_HTTP
        assert parse_head(line + end + b"Host: h\r\n\r\n").verdict == NOT_HTTP


def test_http2_preface_is_refused() -> None:
    """The preface of HTTP/2 is no request, though it was made to look like one."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    assert parse_head(preface).verdict == NOT_HTTP


@pytest.mark.parametrize(
    "line",
    [
        *(b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 20", b"HTTP/1.1 20 OK", b"HTTP/1.1 2x0 OK"),
        *(b"HTTP/1.1 099 OK", b"HTTP/1.1 000", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK"),
        *(b"HTTP/2.0 200 OK", b"HTTP/2 200 OK", b"http/1.1 200 OK", b"HTTP/1.2 200 OK"),
        *(b"HTTP/1.1 2000 OK", b"HTTP/1.1 2000", b"HTTP/1.1 200OK", b"HTTP/1.1 -20 OK"),
        *(b"GET / HTTP/1.1", b"ICY 200 OK", b" HTTP/1.1 200 OK", b"RTSP/1.0 200 OK"),
    ],
)
def test_no_status_line(line: bytes) -> None:
    """What is no status line is no HTTP, as soon as the line has ended."""
    for end in (b"\r\n", b"\n"):
        assert parse_head(line, request=False).verdict == INCOMPLETE
        assert parse_head(line + end, request=False).verdict == NOT_HTTP


@pytest.mark.parametrize(
    ("line", "version", "status"),
    [
        (b"HTTP/1.1 200 OK", 11, 200),
        (b"HTTP/1.0 404 Not Found", 10, 404),
        (b"HTTP/1.1 200", 11, 200),
        (b"HTTP/1.1 200 ", 11, 200),
        (b"HTTP/1.1 100 Continue", 11, 100),
        (b"HTTP/1.1 999 Request denied", 11, 999),
        (b"HTTP/1.1 500 K\xc3\xb6nnte sein\t!", 11, 500),
    ],
)
def test_status_lines(line: bytes, version: int, status: int) -> None:
    """Version and status of a status line, with a reason or without."""
    head = parse_head(response(line=line), request=False)
    assert (head.verdict, head.version, head.status) == (COMPLETE, version, status)


@pytest.mark.parametrize("status", range(100, 1000, 7))
def test_all_statuses(status: int) -> None:
    """Every status of three digits is read."""
    head = parse_head(response(line=b"HTTP/1.1 %d x" % status), request=False)
    assert (head.verdict, head.status) == (COMPLETE, status)


def test_requests_of_http10() -> None:
    """HTTP/1.0 is told from 1.1, with no field at all."""
    head = parse_head(b"GET / HTTP/1.0\r\n\r\n")
    assert (head.verdict, head.version, head.length) == (COMPLETE, 10, 18)


def test_blank_in_target() -> None:
    """A target runs to the last blank of its line, as lenient servers have it."""
    assert parse_head(request(line=b"GET /a b HTTP/1.1")).target == b"/a b"


# Lines.


@pytest.mark.parametrize("blank_lines", [b"\r\n", b"\n", b"\r\n\r\n", b"\n\r\n\n" * 5])
def test_empty_lines_before_a_head(blank_lines: bytes) -> None:
    """Empty lines before the first line are skipped and belong to the head."""
    head = parse_head(blank_lines + b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
    assert head.verdict == COMPLETE
    assert head.length == len(blank_lines) + 28
    assert (head.target, head.kept) == (b"/x", ((Kept.HOST, b"h"),))
    assert parse_head(blank_lines).verdict == INCOMPLETE


def test_bare_line_feeds() -> None:
    """Line feeds alone end lines and the head."""
    head = parse_head(b"GET /x HTTP/1.1\nHost: h\nContent-Length: 7\n\nGET")
    assert (head.verdict, head.length) == (COMPLETE, 43)
    assert (head.content_length, head.kept) == (7, ((Kept.HOST, b"h"),))


def test_carriage_return_ends_no_line() -> None:
    """A carriage return without a line feed is like any other byte."""
    head = parse_head(b"GET /x HTTP/1.1\r\nX: a\rHost: h\r\rContent-Length: 7\r\n\r\n")
    assert (head.verdict, head.content_length, head.kept) == (COMPLETE, None, ())


def test_folded_lines() -> None:
    """A folded line adds nothing to the field before it and is no field itself."""
    head = parse_head(
        request(b"Host: h", b" Host: wrong", b"\tContent-Length: 7", b" : x", b"X: a", b" b")
    )
    assert (head.verdict, head.content_length, head.kept) == (COMPLETE, None, ((Kept.HOST, b"h"),))


def test_head_of_exactly_the_largest_size() -> None:
    """A head as large as the buffer is read; without its last byte it is incomplete."""
    for size in (HEAD_MAX - 1, HEAD_MAX):
        filler = size - len(request(b"X: ", b"Host: h"))
        head = request(b"X: " + b"a" * filler, b"Host: h")
        assert len(head) == size
        found = parse_head(head, behind=b"h")
        assert (found.verdict, found.length, found.kept) == (COMPLETE, size, ((Kept.HOST, b"h"),))
        assert parse_head(head[:-1]).verdict == INCOMPLETE


def test_head_larger_than_the_buffer() -> None:
    """A head that does not end within the buffer is incomplete, however far its lines reach."""
    for filler in range(HEAD_MAX - 59, HEAD_MAX):
        head = request(b"X: " + b"a" * filler, b"Transfer-Encoding: chunked", b"Host: h")
        assert len(head) > HEAD_MAX
        assert parse_head(head[:HEAD_MAX]).verdict == INCOMPLETE, filler


def test_many_lines() -> None:
    """The walk has steps enough for a buffer full of the shortest lines."""
    start = b"GET / HTTP/1.1\n"
    lines = (HEAD_MAX - len(start) - 1) // 2
    head = start + b"a\n" * lines + b"\n"
    assert parse_head(head).length == len(head)
    assert parse_head(b"\n" * (HEAD_MAX - 18) + b"GET / HTTP/1.0\r\n\r\n").length == HEAD_MAX


# What is kept.


@pytest.mark.parametrize(
    "length", [1, 2, 255, 256, TARGET_MAX - 1, TARGET_MAX, TARGET_MAX + 1, 9000]
)
def test_length_of_targets(length: int) -> None:
    """A target is kept up to TARGET_MAX bytes, its full length is told."""
    target = (b"/0123456789abcdef" * 600)[:length]
    head = parse_head(request(b"Host: h", line=b"GET " + target + b" HTTP/1.1"))
    assert head.verdict == COMPLETE
    assert (head.target, head.target_full_len) == (target[:TARGET_MAX], length)
    assert head.kept == ((Kept.HOST, b"h"),)


@pytest.mark.parametrize(
    "length", [1, 7, 8, 9, 255, 256, KEPT_MAX - 1, KEPT_MAX, KEPT_MAX + 1, 5000]
)
def test_length_of_kept_values(length: int) -> None:
    """A value is kept up to KEPT_MAX bytes, and a cut is told."""
    value = (b"0123456789abcdef" * 400)[:length]
    head = parse_head(request(b"User-Agent: " + value, b"Host: h"))
    assert head.kept == ((Kept.USER_AGENT, value[:KEPT_MAX]), (Kept.HOST, b"h"))
    assert head.kept_cut == (length > KEPT_MAX)


@pytest.mark.parametrize("spare", [-1, 0, 1, 4, 5])
def test_kept_fields_to_the_last_byte(spare: int) -> None:
    """Fields are kept while they fit; the first that does not is left out, and that is told."""
    target = b"/" * 1000
    used = 1000 + 2 * (4 + KEPT_MAX)
    last = OUT_MAX - used - 4 - spare
    values = [b"a" * KEPT_MAX, b"b" * KEPT_MAX, b"c" * last, b"d"]
    fields = [b"Forwarded: " + value for value in values]
    head = parse_head(request(*fields, line=b"GET " + target + b" HTTP/1.1"))
    room = OUT_MAX - used
    expected, left_out = [], False
    for value in values[2:]:
        fits = 4 + len(value) <= room
        room -= (4 + len(value)) * fits
        expected += [(Kept.FORWARDED, value)] * fits
        left_out |= not fits
    assert head.target == target
    assert head.kept[2:] == tuple(expected)
    assert head.kept_cut == left_out
    assert len(expected) == {-1: 1, 0: 1, 1: 1, 4: 1, 5: 2}[spare]


FIELDS = [
    (b"Host", Kept.HOST),
    (b"User-Agent", Kept.USER_AGENT),
    (b"X-Forwarded-For", Kept.X_FORWARDED_FOR),
    (b"X-Forwarded-Proto", Kept.X_FORWARDED_PROTO),
    (b"Forwarded", Kept.FORWARDED),
    (b"Tracestate", Kept.TRACESTATE),
]


@pytest.mark.parametrize("blank", BLANKS, ids=repr)
@pytest.mark.parametrize(("name", "tag"), FIELDS, ids=lambda part: repr(part))
def test_names_and_blanks(name: bytes, tag: Kept, blank: bytes) -> None:
    """A field is known in any case of its name, its value is free of the blanks around it."""
    for cased in (name, name.lower(), name.upper(), name.swapcase()):
        for value in (b"v", b"a, b", b"a\tb c", b"0123456789" * 3):
            head = parse_head(request(cased + b":" + blank + value + blank, b"X: y"))
            assert head.kept == ((tag, value),)
        assert parse_head(request(cased + b":" + blank)).kept == ()


def test_fields_of_responses_are_not_kept() -> None:
    """Nothing but the framing is taken from a response."""
    fields = [name + b": v" for name, _ in FIELDS]
    head = parse_head(response(*fields, b"traceparent: " + PARENT), request=False)
    assert (head.verdict, head.kept, head.traceparent) == (COMPLETE, (), None)


@pytest.mark.parametrize("blank", BLANKS, ids=repr)
def test_traceparent_is_found_anywhere(blank: bytes) -> None:
    """A traceparent is found wherever it stands, without the blanks around it."""
    fields = [b"Host: h", b"tracestate: a=b", b"Te: x", b"traceparents: no"]
    for place in range(len(fields) + 1):
        for name in (b"traceparent", b"Traceparent", b"TRACEPARENT", b"TraceParent"):
            line = name + b":" + blank + PARENT + blank
            head = parse_head(request(*fields[:place], line, *fields[place:]))
            assert head.traceparent == PARENT


def test_no_traceparent() -> None:
    """A name that is nearly traceparent is not."""
    for name in (b"traceparen", b"traceparent2", b"xtraceparent", b" traceparent", b"trace-parent"):
        assert parse_head(request(name + b": " + PARENT)).traceparent is None


@pytest.mark.parametrize("times", [2, 3, 4])
def test_more_than_one_traceparent(times: int) -> None:
    """Of several traceparents none is taken, as W3C Trace Context asks."""
    head = parse_head(request(*[b"traceparent: " + PARENT] * times))
    assert head.traceparent == b""


# Framing.


@pytest.mark.parametrize("blank", BLANKS, ids=repr)
@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
def test_content_length(name: bytes, blank: bytes) -> None:
    """A length is a decimal number of at most 18 digits, with any blanks around it."""
    for number in (0, 1, 9, 10, 2**32 - 1, 2**32, 10**18 - 1):
        for text in (b"%d" % number, (b"%d" % number).zfill(18)):
            head = parse_head(request(name + b":" + blank + text + blank))
            assert framing(head) == (COMPLETE, number, False, False)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"-1", b"+1", b"1a", b"0x10", b"1.0", b"1 2", b"1,1", b"1, 1", b"1,2", b"a", b";"),
        *(b"\xb2", b"1\0", b"\x001", b"1" * 19, b"9" * 30, b"0" * 21, b"18446744073709551616"),
        *(b"1\r", b"1\x0b", b"/", b":"),
    ],
)
def test_no_content_length(value: bytes) -> None:
    """A length that is no number ends it: nobody can know where the body ends."""
    assert parse_head(request(b"Content-Length: " + value)).verdict == BAD
    assert parse_head(response(b"Content-Length: " + value), request=False).verdict == BAD


@pytest.mark.parametrize("digits", range(1, 19))
def test_content_lengths_of_any_size(digits: int) -> None:
    """A number is read the same way however many digits it has, eight and fewer at once."""
    for number in (10 ** (digits - 1), 10**digits - 1, int("1234567890123456789"[:digits])):
        head = parse_head(request(f"Content-Length: {number}".encode()))
        assert (head.verdict, head.content_length) == (COMPLETE, number)


@pytest.mark.parametrize("digits", [1, 7, 8, 9])
def test_any_byte_in_a_content_length(digits: int) -> None:
    """Nothing but a digit is one, wherever in the number it stands."""
    value = b"123456789"[:digits]
    for place in range(digits):
        for byte in set(range(256)) - set(b"\r\n \t"):
            changed = value[:place] + bytes([byte]) + value[place + 1 :]
            head = parse_head(request(b"Content-Length: " + changed))
            expected = (COMPLETE, int(changed)) if changed.isdigit() else (BAD, None)
            assert (head.verdict, head.content_length) == expected, changed


def test_several_content_lengths() -> None:
    """Equal lengths are one, different ones contradict each other."""
    same = request(b"Content-Length: 5", b"Host: h", b"content-length: 05", b"Content-Length:5")
    assert framing(parse_head(same)) == (COMPLETE, 5, False, False)
    other = request(b"Content-Length: 5", b"Content-Length: 5", b"Content-Length: 6")
    assert parse_head(other).verdict == BAD
    assert parse_head(request(b"Content-Length: 0", b"Content-Length: 5")).verdict == BAD


@pytest.mark.parametrize(
    ("value", "is_chunked"),
    [
        *((b"chunked", True), (b"Chunked", True), (b"CHUNKED", True), (b"cHuNkEd", True)),
        *((b"gzip, chunked", True), (b"gzip,chunked", True), (b"gzip,\tchunked", True)),
        *((b"GZIP,  CHUNKED", True), (b"gzip, deflate, chunked", True), (b",chunked", True)),
        *((b"chunked, gzip", False), (b"gzip", False), (b"identity", False), (b"", False)),
        *(
            (b"xchunked", False),
            (b"notchunked", False),
            (b"x-chunked", False),
            (b"chunkedx", False),
        ),
        *(
            (b"gzip, xchunked", False),
            (b"chunke", False),
            (b"hunked", False),
            (b"chunked;q", False),
        ),
    ],
)
def test_transfer_encoding(value: bytes, is_chunked: bool) -> None:
    """A body is chunked when chunked is the last of its codings, whatever comes before."""
    expected = (COMPLETE, None, is_chunked, not is_chunked)
    for name in (b"Transfer-Encoding", b"transfer-encoding", b"TRANSFER-ENCODING"):
        for blank in BLANKS:
            field = name + b":" + blank + value + blank
            assert framing(parse_head(request(field))) == expected
            assert framing(parse_head(response(field), request=False)) == expected


def test_several_transfer_encodings() -> None:
    """Several lines are one list: the last coding of the last line counts."""
    gzip, chunked = b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"
    assert framing(parse_head(request(gzip, chunked))) == (COMPLETE, None, True, False)
    assert framing(parse_head(request(chunked, gzip))) == (COMPLETE, None, False, True)


def test_length_and_chunked() -> None:
    """Both are told; that chunked wins is for who frames the body to know."""
    head = parse_head(request(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
    assert framing(head) == (COMPLETE, 5, True, False)


# The guess at a beginning.


@pytest.mark.parametrize("method", KNOWN + UNKNOWN)
def test_every_prefix_may_begin_a_request(method: bytes) -> None:
    """A request line cut anywhere may begin a request."""
    line = method + b" /a/b?c HTTP/1.1\r\n"
    assert all(may_begin_request(line[:cut]) for cut in range(len(line) + 1))


def could_begin(data: bytes) -> bool:
    """Upper-case letters and dashes, three at least before a blank, as far as eight bytes tell."""
    return bool(re.fullmatch(rb"[A-Z-]{0,8}|[A-Z-]{3,7} .*", data[:8], re.DOTALL))


@pytest.mark.parametrize("line", [b"GET / HT", b"POST /ab", b"PROPFIND", b"M-SEARCH", b"OPTIONS "])
def test_any_byte_in_a_beginning(line: bytes) -> None:
    """Any one byte of a beginning, replaced by any other, at any cut, is judged as defined."""
    for at in range(len(line)):
        for byte in range(256):
            changed = line[:at] + bytes([byte]) + line[at + 1 :]
            for cut in (at + 1, len(line)):
                assert may_begin_request(changed[:cut]) == could_begin(changed[:cut]), changed


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"get / HTTP/1.1",
            b"Get /",
            b"A /",
            b"AB / HTTP/1.1",
            b" GET /",
            b"\r\nGET /",
            b"G ET /",
        ),
        *(b"HTTP/1.1 200 OK", b"GET/ HTTP", b"\x16\x03\x01\x00", b"*1\r\n$4\r\n", b"220 smtp"),
        *(b"\0\0\0\x0f\x00", b"SSH-2.0-", b"G\xc5T / HT", b"\xc7\xc5\xd4 / HTT"),
    ],
)
def test_what_begins_no_request(data: bytes) -> None:
    """Lower case, too short a word, or other protocols' first bytes begin no request."""
    assert not may_begin_request(data)


@bounded
@given(st.binary(max_size=12))
def test_beginning_as_defined(data: bytes) -> None:
    """Any bytes are judged as defined."""
    assert may_begin_request(data) == could_begin(data)
