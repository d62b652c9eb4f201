"""Records of TLS: where they begin, however a stream is cut."""

import ssl
import subprocess
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.parsers import (
    tls_begins,
    tls_expiry,
    tls_next_protocol,
    tls_records,
    tls_says_little,
    tls_server_name,
    tls_version,
)

LARGEST = 16384 + 2048
KINDS = st.sampled_from([20, 21, 22, 23])
RECORDS = st.lists(st.tuples(KINDS, st.integers(1, 300)), min_size=1, max_size=12)


def written(records: list[tuple[int, int]]) -> bytes:
    return b"".join(
        bytes([kind, 3, 3]) + length.to_bytes(2, "big") + bytes(length) for kind, length in records
    )


@given(RECORDS, st.integers(1, 40))
def test_records_are_found(records: list[tuple[int, int]], step: int) -> None:
    """Every record is found where it begins, whatever pieces its header comes in."""
    starts = accumulate((5 + length for _, length in records), initial=0)
    lengths = [length for _, length in records]
    assert tls_records(written(records), step) == list(zip(starts, lengths, strict=False))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(bytes([24, 3, 3, 0, 1]), id="heartbeat, which nobody speaks"),
        pytest.param(bytes([23, 2, 0, 0, 1]), id="SSL 2"),
        pytest.param(bytes([23, 3, 5, 0, 1]), id="a version that is none"),
        pytest.param(bytes([23, 3, 3]) + (LARGEST + 1).to_bytes(2, "big"), id="too long"),
        pytest.param(bytes([23, 3, 3, 0, 0]), id="empty"),
    ],
)
def test_what_is_no_record_ends_it(header: bytes) -> None:
    """Nothing is taken for a record that breaks the rules, and nothing after it."""
    good = written([(22, 4), (23, 9)])
    assert tls_records(good + header + good, 7) == [(0, 4), (9, 9)]


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_break_it(stream: bytes, step: int) -> None:
    """Whatever comes: records lie one behind the other, within the stream."""
    end = 0
    for at, length in tls_records(stream, step):
        assert at == end
        assert 0 < length <= LARGEST
        end = at + 5 + length


def hello() -> bytes:
    """What a real client says first."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_client_is_recognised() -> None:
    """By its first bytes, also when only a record's header has come."""
    first = hello()
    assert tls_begins(first, from_start=True)
    assert tls_begins(first[:5], from_start=True)
    assert [at for at, _ in tls_records(first, 1)] == [0]


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n", b"\x16\x03", b""])
def test_plain_text_is_not(text: bytes) -> None:
    """What is HTTP, or too short to tell, is no TLS."""
    assert not tls_begins(text, from_start=True)
    assert not tls_begins(text, from_start=False)


def test_data_begins_no_connection() -> None:
    """A record of data can only be met in the middle of a connection."""
    data = written([(23, 40)])
    assert tls_begins(data, from_start=False)
    assert not tls_begins(data, from_start=True)


def greeting(version: ssl.TLSVersion, certificate: Path, protocols: tuple[str, ...] = ()) -> bytes:
    """What a real server says first to a real client, without its record's header. protocols:
    what both speak, the server's first choice first."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    server.maximum_version = version
    to_server, to_client, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context()
    for context in (server, client) if protocols else ():
        context.set_alpn_protocols(list(protocols))
    both = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, outgoing, server_side=True),
    )
    for end in both:
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    said = outgoing.read()
    return said[5 : 5 + int.from_bytes(said[3:5], "big")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    command += ["-keyout", str(made), "-out", str(made.with_suffix(".crt"))]
    subprocess.run(command, check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + made.with_suffix(".crt").read_bytes())
    return made


@pytest.mark.parametrize(
    ("version", "number"), [(ssl.TLSVersion.TLSv1_2, 3), (ssl.TLSVersion.TLSv1_3, 4)]
)
def test_version(version: ssl.TLSVersion, number: int, certificate: Path) -> None:
    """The version is the one that both ends agree on, and not told before it is certain."""
    said = greeting(version, certificate)
    assert tls_version(said) == number
    assert {tls_version(said[:n]) for n in range(len(said))} <= {0, number}
    assert tls_version(said[:60]) == 0


@given(st.binary(max_size=300))
def test_no_greeting_breaks_it(said: bytes) -> None:
    """Whatever comes is a version that exists, or none."""
    assert tls_version(b"\x02" + said) in range(5)


def test_server_name() -> None:
    """What a client calls the server is found in its greeting, and in none that is cut before."""
    said = hello()[5:]
    assert tls_server_name(said) == b"localhost"
    assert {tls_server_name(said[:n]) for n in range(len(said))} == {None, b"localhost"}


@given(st.binary(max_size=300))
def test_no_client_breaks_it(said: bytes) -> None:
    """Whatever a client says, a name lies within it or there is none."""
    found = tls_server_name(b"\x01" + said)
    assert found is None or found in b"\x01" + said


@pytest.mark.parametrize("protocols", [("h2", "http/1.1"), ("http/1.1",), ()])
def test_next_protocol(protocols: tuple[str, ...], certificate: Path) -> None:
    """Of TLS 1.2 what a server has chosen is found, and in no greeting that is cut before it."""
    said = greeting(ssl.TLSVersion.TLSv1_2, certificate, protocols)
    chosen = protocols[0].encode() if protocols else None
    assert tls_next_protocol(said) == chosen
    assert {tls_next_protocol(said[:n]) for n in range(len(said))} <= {None, chosen}
    assert tls_version(said) == 3


def test_next_protocol_is_not_guessed(certificate: Path) -> None:
    """TLS 1.3 says it encrypted: nothing is told."""
    assert tls_next_protocol(greeting(ssl.TLSVersion.TLSv1_3, certificate, ("h2",))) is None


SERVER_HELLO = bytes([2]) + (0).to_bytes(3, "big") + b"\x03\x03" + bytes(32) + b"\0" + bytes(3)


@given(st.binary(max_size=80), st.integers(0, 0xFFFF))
def test_no_server_breaks_it(extensions: bytes, length: int) -> None:
    """Whatever extensions a server sends, of whatever lengths, a protocol lies within them."""
    body = SERVER_HELLO[4:] + length.to_bytes(2, "big") + b"\0\x10" + extensions
    said = b"\x02" + len(body).to_bytes(3, "big") + body
    found = tls_next_protocol(said)
    assert found is None or found in said


@pytest.mark.parametrize(("listed", "named"), [(3, 1), (4, 2), (200, 2), (3, 255)])
def test_lengths_that_disagree(listed: int, named: int) -> None:
    """A list of protocols is believed only where its three lengths agree."""
    one = b"\0\x10\0\x05" + listed.to_bytes(2, "big") + bytes([named]) + b"h2"
    body = SERVER_HELLO[4:] + len(one).to_bytes(2, "big") + one
    said = b"\x02" + len(body).to_bytes(3, "big") + body
    assert tls_next_protocol(said) is None


@pytest.mark.parametrize(("version", "overhead"), [(4, 17), (3, 24), (0, 17)])
def test_what_is_no_request(version: int, overhead: int) -> None:
    """Frames of HTTP/2 that ask for nothing begin no exchange; the shortest requests do."""
    little = {n for n in range(100) if tls_says_little(version, n + overhead)}
    settings, window, ping, key_update, alert, last_chunk = 9, 13, 17, 5, 2, 5
    assert {settings, window, ping, key_update, alert, last_chunk} <= little
    shortest = len(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    indexed = 9 + 6  # HEADERS of which all fields are in HPACK's table
    assert not {shortest, indexed, *range(18, 100)} & little


def a_certificate(folder: Path, *arguments: str) -> tuple[bytes, bytes]:
    """A certificate as it is on the wire, and until when it is valid, by openssl's own word."""
    made, key = folder / "certificate.der", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-outform", "der", "-out", str(made), *arguments]
    subprocess.run(command, check=True, capture_output=True)
    parse = ["openssl", "asn1parse", "-inform", "der", "-in", str(made)]
    told = subprocess.run(parse, check=True, capture_output=True, text=True).stdout
    times = [line.rpartition(":")[2] for line in told.splitlines() if "TIME" in line]
    return made.read_bytes(), times[1].encode()


def certificate_message(*chain: bytes) -> bytes:
    """RFC 5246, section 7.4.2."""
    inner = b"".join(len(one).to_bytes(3, "big") + one for one in chain)
    inner = len(inner).to_bytes(3, "big") + inner
    return bytes([11]) + len(inner).to_bytes(3, "big") + inner


GREETING = bytes([2]) + (70).to_bytes(3, "big") + bytes(70)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-days", "2", "-subj", "/CN=localhost"), id="this century"),
        pytest.param(("-days", "20000", "-subj", "/CN=localhost"), id="after 2049"),
        pytest.param(("-days", "2", "-subj", f"/O={'o' * 60}/OU={'u' * 60}/CN=x"), id="long name"),
        pytest.param(("-days", "2", "-subj", "/CN=x", "-set_serial", "1"), id="short number"),
    ],
)
def test_expiry_of_certificates(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The end of the server's own certificate's validity is found, with or without the greeting
    before it, and wherever the record is cut behind it."""
    own, wanted = a_certificate(tmp_path, *arguments)
    other, _ = a_certificate(tmp_path, "-days", "9", "-subj", "/CN=issuer")
    message = certificate_message(own, other)
    assert tls_expiry(message) == wanted
    assert tls_expiry(GREETING + message) == wanted
    end = message.index(wanted) + len(wanted)
    assert tls_expiry(message[:end]) == wanted
    assert tls_expiry(message[: end - 1]) is None


@given(st.data())
def test_no_bytes_break_certificates(data: st.DataObject) -> None:
    """What is no certificate has no time, or what looks like one within its bytes."""
    head = data.draw(st.sampled_from([b"", GREETING, GREETING + bytes([11])]))
    found = tls_expiry(head + data.draw(st.binary(max_size=200)))
    assert found is None or len(found) in (13, 15)
