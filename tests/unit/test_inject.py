"""What is decided in pure code before a header is written: its text, whether a head's framing is
beyond doubt, and where headers may go."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.parsers import COMPLETE, parse_struct, write_traceparent
from waggle.errors import UsageError
from waggle.injecting import DEFAULT_TO, Rule, rules_of

IDS = st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.integers(0, 255)


@given(*IDS)
def test_the_line(trace_id: bytes, span_id: bytes, flags: int) -> None:
    """The line is `traceparent` as W3C has it, whatever the ids."""
    expected = f"traceparent: 00-{trace_id.hex()}-{span_id.hex()}-{flags:02x}\r\n"
    assert write_traceparent(trace_id, span_id, flags) == expected.encode()


PLAIN = b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
ODD = {
    "line feed alone": PLAIN.replace(b"Host: a\r\n", b"Host: a\n"),
    "line feed after the request line": PLAIN.replace(b"1.1\r\n", b"1.1\n"),
    "line feed at the end": PLAIN.replace(b"0\r\n\r\n", b"0\r\n\n"),
    "empty line first": b"\r\n" + PLAIN,
    "folded by a blank": PLAIN.replace(b"Host", b" Host"),
    "folded by a tab": PLAIN.replace(b"Host", b"\tHost"),
    "blank before the colon": PLAIN.replace(b"Length:", b"Length :"),
    "tab before the colon": PLAIN.replace(b"Length:", b"Length\t:"),
    "another coding's blank": PLAIN.replace(b"Content-Length: 0", b"Transfer-Encoding : chunked"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_heads(name: str) -> None:
    """Framing that somebody else may read in another way is noticed."""
    head = parse_struct(ODD[name], request=True)
    assert head["verdict"] == COMPLETE
    assert head["odd"] == 1


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z][A-Za-z-]{0,20}", fullmatch=True).filter(
                lambda name: not name.lower().startswith(("content-", "transfer-"))
            ),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
        ),
        max_size=30,
    )
)
def test_plain_heads(fields: list[tuple[str, str]]) -> None:
    """Heads as clients write them are not odd; the first line's end and the fields are counted."""
    lines = ["GET /a HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    head = parse_struct("\r\n".join(lines).encode(), request=True)
    assert head["verdict"] == COMPLETE
    assert not head["odd"]
    assert head["first_line"] == len(lines[0]) + 2
    assert head["fields"] == len(fields) + 1


def matches(rules: tuple[Rule, ...], text: str, port: int = 80) -> bool:
    """As bpf/enrol.h compares."""
    address = ipaddress.ip_address(text)
    if address.version == 4:
        address = ipaddress.ip_address(f"::ffff:{text}")
    number = int(address)
    wanted = False
    for rule in rules:
        mask = int.from_bytes(rule.mask, "big")
        if (number ^ int.from_bytes(rule.address, "big")) & mask or rule.port not in (0, port):
            continue
        if rule.never:
            return False
        wanted = True
    return wanted


INSIDE = ("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.1.1", "::1")
OUTSIDE = ("8.8.8.8", "172.32.0.1", "169.254.169.254", "100.64.0.1", "2001:db8::1", "fe80::1")


def test_default_destinations() -> None:
    """By default headers go to the loopback and to private networks, and nowhere else: not to a
    cloud's metadata server either."""
    rules = rules_of(DEFAULT_TO)
    assert all(matches(rules, address) for address in (*INSIDE, "fd00::1"))
    assert not any(matches(rules, address) for address in OUTSIDE)


def test_chosen_destinations() -> None:
    """A rule is a name, an address or a network, with a port if wanted; `never=` wins, wherever
    it stands."""
    rules = rules_of(("10.0.0.0/8:8080", "2001:db8::/32", "never=10.1.0.0/16", "192.0.2.7"))
    assert matches(rules, "10.2.0.1", 8080)
    assert not matches(rules, "10.2.0.1", 80)
    assert not matches(rules, "10.1.0.1", 8080)
    assert matches(rules, "192.0.2.7", 1)
    assert not matches(rules, "192.0.2.8")
    assert matches(rules_of(("any",)), "8.8.8.8")
    assert matches(rules_of(("any",)), "2001:db8::1")
    assert not matches(rules_of(()), "127.0.0.1")
    assert matches(rules_of(("[2001:db8::1]:8080",)), "2001:db8::1", 8080)
    assert not matches(rules_of(("[2001:db8::1]:8080",)), "2001:db8::1", 80)
    assert matches(rules_of(("fd00::/8",)), "fd12::1")


@pytest.mark.parametrize(
    "text", ["privat", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1:70000", "example.com", "", "[::1]x"]
)
def test_bad_destinations(text: str) -> None:
    """What is no destination is refused, with what would be one."""
    with pytest.raises(UsageError, match=r"--inject-to.*loopback, private, any"):
        rules_of((text,))


def test_too_many_destinations() -> None:
    """More rules than the kernel looks through are refused."""
    with pytest.raises(UsageError, match="65"):
        rules_of([f"10.0.0.{i}" for i in range(65)])
