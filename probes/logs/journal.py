"""Entries for journald and syslog: one datagram each.

journald's native protocol: systemd's documentation, "Native Journal Protocol". Syslog: what
syslog(3) of a C library writes to /dev/log, RFC 3164's form.
"""

import re
from collections.abc import Mapping

from waggle.probes.logs.formats import SYSLOG, Head
from waggle.spans import Attributes

_FIELD = re.compile(rb"[A-Z0-9_]+\Z")
_LENGTH = 8  # bytes before a value that has lines of its own
_PRIORITY = re.compile(rb"<(\d{1,3})>")
_SYSLOG_HEAD = re.compile(
    rb"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?(?:([^\s\[:]+)(?:\[(\d+)\])?: )?"
)
_MOST_FIELDS = 128

# Fields of the journal that the conventions have a name for.
_ATTRIBUTES: Mapping[bytes, str] = {
    b"CODE_FILE": "code.file.path",
    b"CODE_FUNC": "code.function.name",
    b"CODE_LINE": "code.line.number",
}


def read_entry(datagram: bytes) -> tuple[bytes, Head | None, Attributes] | None:
    """Message, severity and attributes of an entry of the journal; None where it has no message."""
    fields = _fields(datagram)
    message = fields.get(b"MESSAGE")
    if message is None:
        return None
    attributes: Attributes = {}
    for field, name in _ATTRIBUTES.items():
        if value := fields.get(field):
            text = value.decode("utf-8", "replace")
            number = name == "code.line.number" and text.isascii() and text.isdigit()
            attributes[name] = int(text) if number and len(text) < 10 else text
    return message, _severity(fields.get(b"PRIORITY", b"")), attributes


def _fields(datagram: bytes) -> dict[bytes, bytes]:
    """NAME=value lines, or NAME, a line's end, eight bytes of length, the value, a line's end."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(datagram) and len(fields) < _MOST_FIELDS:
        end = datagram.find(b"\n", at)
        end = len(datagram) if end < 0 else end
        name, equals, value = datagram[at:end].partition(b"=")
        if not _FIELD.match(name):
            break
        at = end + 1
        if not equals:
            size = int.from_bytes(datagram[at : at + _LENGTH], "little")
            value = datagram[at + _LENGTH : at + _LENGTH + size]
            at += _LENGTH + size + 1
        fields.setdefault(name, value)
    return fields


def _severity(priority: bytes) -> Head | None:
    if len(priority) == 1 and priority in b"01234567":
        return Head(*SYSLOG[int(priority)], 0)
    return None


def read_syslog(datagram: bytes) -> tuple[bytes, Head | None, Attributes]:
    """Message, severity and attributes of what syslog(3) sends."""
    found = _PRIORITY.match(datagram)
    head = Head(*SYSLOG[int(found[1]) & 7], 0) if found else None
    rest = datagram[found.end() :] if found else datagram
    header = _SYSLOG_HEAD.match(rest)
    message = rest[header.end() :] if header else rest
    return message.rstrip(b"\n\0"), head, {}
