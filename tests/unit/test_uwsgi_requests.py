"""uWSGI's own protocol: what a connection must begin with to be a request by it (bpf/uwsgi.h)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.parsers import uwsgi_begins

# As these programs send them: nginx 1.22 with its uwsgi_params, httpd 2.4's mod_proxy_uwsgi, and
# the router of uWSGI 2.0.30. What follows does not matter.
GOLDEN = {
    "nginx": b'\0"\x01\0\x0c\0QUERY_STRING\x03\0b=1\x0e\0REQUEST_METHOD\x03\0GET\x0c\0CONT',
    "nginx, empty": b"\0\x1f\x01\0\x0c\0QUERY_STRING\0\0\x0e\0REQUEST_METHOD\x03\0GET\x0c\0CON",
    "httpd": b"\0\xd7\x02\0\t\0PATH_INFO\x02\0/a\t\0HTTP_HOST\x01\0x\x04\0PATH\xcd\0/usr/local/go",
    "router": b"\0\xe9\0\0\x0e\0REQUEST_METHOD\x03\0GET\t\0PATH_INFO\x02\0/a\x0b\0REQUEST_URI",
}
NAMES = """
QUERY_STRING REQUEST_METHOD REQUEST_URI REQUEST_SCHEME CONTENT_TYPE CONTENT_LENGTH PATH_INFO
DOCUMENT_ROOT SCRIPT_NAME SCRIPT_FILENAME SERVER_PROTOCOL SERVER_NAME SERVER_PORT SERVER_ADDR
REMOTE_ADDR REMOTE_PORT REMOTE_USER HTTP_HOST UWSGI_SCRIPT UWSGI_SCHEME UWSGI_CHDIR UWSGI_PYHOME
"""


def packet(
    name: bytes, value: bytes = b"v", *, first: int = 0, second: int = 0, size: int | None = None
) -> bytes:
    """A request with this variable first, and others behind it."""
    pair = len(name).to_bytes(2, "little") + name + len(value).to_bytes(2, "little") + value
    body = pair + b"\x0b\0REMOTE_ADDR\x09\x00127.0.0.1"
    told = len(body) if size is None else size
    return bytes([first]) + told.to_bytes(2, "little") + bytes([second]) + body


@pytest.mark.parametrize("program", GOLDEN)
def test_what_programs_send_is_known(program: str) -> None:
    """The beginning of a request is known by what stands first in it."""
    assert uwsgi_begins(GOLDEN[program])


@given(st.sampled_from(NAMES.split()), st.binary(max_size=600))
def test_every_name_may_be_first(name: str, value: bytes) -> None:
    """Any variable of CGI may stand first, whatever its value."""
    assert uwsgi_begins(packet(name.encode(), value))


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(packet(b"QUERY_STRING", first=5), id="for a program in Perl"),
        pytest.param(packet(b"QUERY_STRING", second=1), id="another second modifier"),
        pytest.param(packet(b"QUERY_STRING", size=0), id="empty"),
        pytest.param(packet(b"QUERY_STRING", size=27), id="smaller than any request"),
        pytest.param(packet(b"PATH_INFO", b"v" * 99, size=111), id="a value beyond its end"),
        pytest.param(packet(b"QUERY_STRINGS"), id="a name that only begins so"),
        pytest.param(packet(b"QUERY_STRIN"), id="and one that ends before"),
        pytest.param(packet(b"query_string"), id="lower case"),
        pytest.param(packet(b"PATH"), id="a short name"),
        pytest.param(packet(b"A" * 16), id="a name that nobody has"),
        pytest.param(packet(b"GATEWAY_INTERFACE"), id="a longer one than is looked at"),
        pytest.param(packet(b"QUERY_STRING")[:31], id="cut"),
        pytest.param(b"\x01\x01\x00\x01\x00\x08\x00\x00" + bytes(64), id="FastCGI"),
        pytest.param(b"\0\0\1\0\0\3\0\0user\0postgres\0database\0postgres\0\0", id="PostgreSQL"),
        pytest.param(b"77:CONTENT_LENGTH\0000\0SCGI\0001\0REQUEST_METHOD\0GET\0", id="SCGI"),
        pytest.param(b"GET /QUERY_STRING HTTP/1.1\r\nHost: x\r\n\r\n", id="HTTP/1"),
        pytest.param(bytes(64), id="zeros"),
        pytest.param(b"\0\xff\xff\0\x0c\0" + b"\xff" * 58, id="the largest size, and no name"),
        pytest.param(b"\0\xff\xff\0\xff\xffQUERY_STRING" + bytes(46), id="the largest name"),
    ],
)
def test_nothing_else_is(first: bytes) -> None:
    """Whatever breaks a rule is no request, however much of it looks like one."""
    assert not uwsgi_begins(first)


@given(st.sampled_from(sorted(GOLDEN)), st.integers(0, 17), st.integers(1, 255))
def test_no_byte_may_be_another(program: str, at: int, change: int) -> None:
    """But for the size, no byte up to the end of the first name may be another."""
    first = bytearray(GOLDEN[program])
    end = 6 + first[4]
    first[at % end] ^= change
    assert not uwsgi_begins(bytes(first)) or at % end in (1, 2)


@given(st.binary(max_size=80))
def test_no_bytes_break_it(first: bytes) -> None:
    """Whatever comes is judged, and only what holds a known name in its place is a request."""
    name = first[6 : 6 + first[4]] if len(first) > 6 else b""
    assert not uwsgi_begins(first) or name.decode() in NAMES.split()
