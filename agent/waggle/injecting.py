"""`traceparent` for strangers: may headers be written into requests here, and where to?

The kernel side is bpf/inject.h and bpf/enrol.h. What a kernel makes of sockets that are enrolled
is not the same everywhere, so it is tried on connections of our own before any other is touched:

- Do enrolled sockets behave as others do (FIONREAD, a blocked recv at the peer's end or reset)?
  If so they stay enrolled, and every request can be given a header (`always`). If not, only the
  first request of each connection is: the socket leaves within that send (`first`).
- Is what arrives what was sent and one line more, whatever the size, and is the socket then as it
  was before? If not, nothing is ever written (`off`).
- The same of a conversation of HTTP/2, whose frames grow. If not, HTTP/2 is left alone.
"""

from __future__ import annotations

import array
import errno
import fcntl
import ipaddress
import select
import socket
import struct
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from waggle import cgroups
from waggle.errors import UnsupportedError, UsageError
from waggle.libbpf import LoadError

if TYPE_CHECKING:
    from waggle.capture import Capture
    from waggle.libbpf import Map

MOST_RULES = 64  # WAGGLE_INJECT_RULES
DEFAULT_TO = ("loopback", "private")

_NAMED = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "any": ("0.0.0.0/0", "::/0"),
}
_NEVER = "never="
_SO_ZEROCOPY = 60
_PATIENCE_S = 5.0  # a bound; nothing of this takes a millisecond on an idle machine


class _TrialError(Exception):
    """What a trial has found, as the reason that a user is given."""


# -- Where headers may go ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One destination as the kernel compares it: addresses as IPv6, IPv4 mapped into it."""

    address: bytes
    mask: bytes
    port: int
    never: bool


def rules_of(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Rules as `--inject-to` has them: loopback, private, any, an address or network, each with
    a port if wanted (10.0.0.0/8:8080, [fd00::/8]:80); `never=` before one forbids it.

    Raises UsageError for what is none of these, and when there are too many.
    """
    rules = [rule for text in texts for rule in _rules(text)]
    # What forbids comes first: the kernel stops at it.
    rules.sort(key=lambda rule: not rule.never)
    if len(rules) > MOST_RULES:
        raise UsageError(f"--inject-to: {len(rules)} destinations are more than {MOST_RULES}")
    return tuple(rules)


def _rules(text: str) -> Iterator[Rule]:
    wanted = text.removeprefix(_NEVER)
    for network, port in _networks(wanted, text):
        address, bits = network.network_address.packed, network.prefixlen
        if network.version == 4:
            address, bits = b"\0" * 10 + b"\xff\xff" + address, bits + 96
        mask = ((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big")
        yield Rule(address, mask, port, text.startswith(_NEVER))


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(wanted: str, text: str) -> Iterator[tuple[_Network, int]]:
    name, _, port = _split(wanted)
    try:
        number = int(port) if port else 0
        if port and not 1 <= number <= 65535:
            raise ValueError(port)
        for network in _NAMED.get(name, (name,)):
            yield ipaddress.ip_network(network, strict=False), number
    except ValueError:
        raise UsageError(
            f"--inject-to: '{text}' is no destination: loopback, private, any, an address or a "
            "network such as 10.0.0.0/8, with a port if wanted (10.0.0.0/8:8080), or never= "
            "before one of these"
        ) from None


def _split(text: str) -> tuple[str, str, str]:
    """Address and port; an IPv6 address with a port is in brackets."""
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        return name, "", rest.removeprefix(":") if rest.startswith(":") or not rest else "none"
    if text.count(":") == 1:
        return text.partition(":")
    return text, "", ""


# -- What this kernel makes of it ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """How headers are written from now on. mode: off, first or always; reason: for a user;
    not_frames: why HTTP/2 is left alone, empty where it is not."""

    mode: str
    reason: str
    not_frames: str = ""

    def __str__(self) -> str:
        where = {
            "always": "into every request",
            "first": "into the first request of each connection",
            "off": "into none",
        }[self.mode]
        but = f"; into none of HTTP/2: {self.not_frames}" if self.not_frames else ""
        return f"traceparent is written {where}: {self.reason}{but}"


def begin(capture: Capture, wanted: str, to: Sequence[str]) -> Decision:
    """Try, decide, and from then on write headers. wanted: auto, always, first or off.

    Needs CAP_NET_ADMIN. Nothing is attached when the answer is off.
    """
    rules = rules_of(to)
    if capture.not_injecting:
        return Decision("off", capture.not_injecting)
    try:
        return _begin(capture, wanted, rules)
    except (_TrialError, LoadError, UnsupportedError, OSError) as error:
        capture.stop_injecting()
        return Decision("off", str(error))


def _begin(capture: Capture, wanted: str, rules: Sequence[Rule]) -> Decision:
    from waggle.layout import InjectMode

    capture.attach_injection(cgroups.root())
    sick = _sickness(capture.bpf.map("enrolled"))
    mode = wanted if wanted != "auto" else "first" if sick else "always"
    number = InjectMode[mode.upper()]
    with _listening() as listener:
        _configure(capture, mode=number, trial=listener.getsockname()[1])
        _try_out(listener, stays=mode == "always", healthy=not sick)
        _try_zerocopy(listener, capture.bpf.map("enrolled"))
        trouble = _trouble_with_frames(listener, stays=mode == "always", healthy=not sick)
    _write_rules(capture.bpf.map("inject_rules"), rules)
    _configure(capture, mode=number, rules=len(rules), frames=not trouble)
    return Decision(mode, _because(wanted, mode, sick), trouble)


def _because(wanted: str, mode: str, sick: str) -> str:
    if mode == "first":
        return sick or "as asked for"
    if wanted == "always" and sick:
        return f"as asked for, although {sick}"
    return "enrolled sockets behave as others do"


def _configure(capture: Capture, **values: int) -> None:
    import numpy as np

    from waggle.layout import INJECT_SETTINGS

    row = np.zeros(1, INJECT_SETTINGS)
    for name, value in values.items():
        row[name] = value
    capture.bpf.map("inject_settings").update(bytes(4), row.tobytes())


def _write_rules(target: Map, rules: Sequence[Rule]) -> None:
    import numpy as np

    from waggle.layout import INJECT_RULE

    for number, rule in enumerate(rules):
        row = np.zeros(1, INJECT_RULE)
        row["address"][0] = np.frombuffer(rule.address, np.uint8)
        row["mask"][0] = np.frombuffer(rule.mask, np.uint8)
        row["address"][0] &= row["mask"][0]
        row["port"], row["never"] = rule.port, rule.never
        target.update(number.to_bytes(4, "little"), row.tobytes())


@contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        listener.settimeout(_PATIENCE_S)
        yield listener


@contextmanager
def _pair(listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection over the loopback: who connected, who accepted."""
    with socket.create_connection(listener.getsockname(), _PATIENCE_S) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(_PATIENCE_S)
            yield client, server


def _unread(sock: socket.socket, expected: int) -> int:
    """What FIONREAD says once something can be read."""
    select.select([sock], [], [], _PATIENCE_S)
    deadline = _PATIENCE_S
    while len(sock.recv(2 * expected, socket.MSG_PEEK)) < expected and deadline > 0:
        deadline -= 0.01
        select.select([], [], [], 0.01)
    buffer = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, buffer, True)
    return buffer[0]


def _sickness(enrolled: Map) -> str:
    """How enrolled sockets differ from others; empty when they do not."""
    with _listening() as listener:
        with _pair(listener) as (client, server), _enrolled(enrolled, client):
            server.sendall(b"x" * 100)
            if (count := _unread(client, 100)) != 100:
                return f"FIONREAD says {count} of 100 bytes on this kernel's enrolled sockets"
        for reset in (False, True):
            with _pair(listener) as (client, server), _enrolled(enrolled, client):
                if found := _end_of_blocked(client, server, reset=reset):
                    return f"a blocked recv on this kernel's enrolled sockets ends with {found}"
    return ""


@contextmanager
def _enrolled(enrolled: Map, sock: socket.socket) -> Iterator[None]:
    key = struct.pack("=Q", (1 << 64) - 1)
    enrolled.update(key, struct.pack("=Q", sock.fileno()))
    try:
        yield
    finally:
        enrolled.delete(key)


def _end_of_blocked(client: socket.socket, server: socket.socket, *, reset: bool) -> str:
    """What a recv that waits gets when the peer closes or resets; empty when that is right."""
    client.setblocking(True)
    found: list[int | None] = []
    waiting = threading.Event()

    def receive() -> None:
        waiting.set()
        try:
            found.append(None if client.recv(1) == b"" else 0)
        except OSError as error:
            found.append(error.errno)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    waiting.wait(_PATIENCE_S)
    _until_asleep(thread)
    if reset:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    thread.join(_PATIENCE_S)
    if not found:
        client.shutdown(socket.SHUT_RDWR)
        return "nothing at all"
    right = errno.ECONNRESET if reset else None
    return "" if found[0] == right else errno.errorcode.get(found[0] or 0, "the wrong answer")


def _until_asleep(thread: threading.Thread) -> None:
    """Until the kernel says that a thread waits, for at most a tenth of a second."""
    state = Path(f"/proc/self/task/{thread.native_id}/stat")
    for _ in range(100):
        if state.read_text().rpartition(")")[2].split()[0] == "S":
            return
        select.select([], [], [], 0.001)


_LINE = b"GET /trial HTTP/1.1\r\n"
_ADDED = b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00\r\n"
# Pieces of the kernel's memory for messages are 32 KB: these sizes lie across their borders.
_SIZES = (40, 3000, 9000, 1500, 20000, 40, 7000, 30000, 5000, 12000, 40)


def _try_out(listener: socket.socket, *, stays: bool, healthy: bool) -> None:
    """Connections of our own are written into as those of others will be."""
    for size in _SIZES:
        body = bytes(range(32, 96)) * (size // 64 + 1)
        request = _LINE + b"Host: trial\r\n\r\n" + body[:size]
        grown = _LINE + _ADDED + request[len(_LINE) :]
        with _pair(listener) as (client, server):
            _expect(client, server, request, grown)
            _answer(client, server, b"x" * 100, check=healthy or not stays)
            _expect(client, server, request, grown if stays else request)


def _answer(client: socket.socket, server: socket.socket, answer: bytes, *, check: bool) -> None:
    """What comes back is there to be read, and FIONREAD says so."""
    server.sendall(answer)
    if check and (count := _unread(client, len(answer))) != len(answer):
        raise _TrialError(f"FIONREAD says {count} of {len(answer)} bytes after a trial")
    if _received(client, len(answer)) != answer:
        raise _TrialError("what came back in a trial is not what was answered")


_HEADERS, _DATA, _SETTINGS = 1, 0, 4
_END_HEADERS, _ACK = 4, 1
_BLOCK = b"\x82\x84\x86\x41\x05trial"  # GET / of http://trial (RFC 7541)
_FIELD = b"\0\x0btraceparent\x37" + _ADDED.removeprefix(b"traceparent: ").strip()
_FRAME_MOST = 1 << 14  # SETTINGS_MAX_FRAME_SIZE, unless told otherwise
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = struct.pack("!IBI", kind | len(payload) << 8, flags, stream)
    return head + payload


def _stream(number: int, field: bytes) -> bytes:
    return _frame(_HEADERS, _END_HEADERS, number, _BLOCK + field)


def _data(number: int, size: int) -> bytes:
    """A body that looks like streams which begin."""
    body = (_stream(99, b"") * (size // len(_stream(99, b"")) + 1))[:size]
    pieces = [body[at : at + _FRAME_MOST] for at in range(0, size, _FRAME_MOST)]
    return b"".join(_frame(_DATA, 0, number, piece) for piece in pieces)


def _trouble_with_frames(listener: socket.socket, *, stays: bool, healthy: bool) -> str:
    """Why HTTP/2 shall be left alone; empty when it need not."""
    try:
        for size in _SIZES:
            with _pair(listener) as (client, server):
                _converse(client, server, size, stays=stays, healthy=healthy)
        for reset in (False, True) if healthy or not stays else ():
            with _pair(listener) as (client, server):
                _converse(client, server, 40, stays=stays, healthy=healthy)
                if found := _end_of_blocked(client, server, reset=reset):
                    return f"a blocked recv behind a trial of it ends with {found}"
    except (_TrialError, OSError) as error:
        return str(error)
    return ""


def _converse(
    client: socket.socket, server: socket.socket, size: int, *, stays: bool, healthy: bool
) -> None:
    """Two streams begin in the message that a connection begins with, one in the next."""
    begin, settings = _PREFACE + _frame(_SETTINGS, 0, 0), _frame(_SETTINGS, _ACK, 0)
    body = _data(3, size)
    first, second = (begin + _stream(1, x) + _stream(3, x) + body for x in (b"", _FIELD))
    _expect(client, server, first, second)
    answer = _frame(_SETTINGS, 0, 0) + settings
    answer += b"".join(_frame(_HEADERS, _END_HEADERS, number, b"\x88") for number in (1, 3))
    _answer(client, server, answer + _data(1, 100), check=healthy or not stays)
    first, second = (settings + _data(1, 30) + _stream(5, x) + body for x in (b"", _FIELD))
    _expect(client, server, first, second if stays else first)


def _try_zerocopy(listener: socket.socket, enrolled: Map) -> None:
    """A socket that is given SO_ZEROCOPY is out before that call returns (bpf/zerocopy.h)."""
    with _pair(listener) as (client, _):
        before = len(list(enrolled.keys()))
        client.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
        after = len(list(enrolled.keys()))
    if (before, after) != (1, 0):
        raise _TrialError("enrolled sockets stay where they are when they are given SO_ZEROCOPY")


def _received(sock: socket.socket, count: int) -> bytes:
    """So many bytes, and maybe more; fewer where the stream ends."""
    got = b""
    while len(got) < count and (piece := sock.recv(1 << 16)):
        got += piece
    return got


def _expect(client: socket.socket, server: socket.socket, sent: bytes, expected: bytes) -> None:
    """What is sent arrives as it is to be."""
    client.sendall(sent)
    got = _received(server, len(expected))
    server.setblocking(False)
    with suppress(BlockingIOError):
        got += server.recv(1 << 16)
    server.settimeout(_PATIENCE_S)
    if got != expected:
        raise _TrialError(f"what arrived of a trial of {len(sent)} bytes is not what should have")
