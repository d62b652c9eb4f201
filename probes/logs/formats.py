"""What a line of a log says of itself: its severity and its time, in the common formats.

A line that says one or the other begins a record (it has a *head*); what follows such a line in
the same write, without a head of its own, is its continuation. Read are:

    JSON lines            {"level":"info",...}: zap, slog, pino, bunyan, structlog, Logback's
    logfmt                time=... level=INFO msg=...
    level first           INFO:root:..., INFO:     ..., [error] ..., info: ...
    time, then level      Python, gunicorn, log4j, Logback, Spring, zap, zerolog, nginx, Rust, ...
    klog, Ruby, java.util.logging, and the priority <N> of syslog

Severity numbers: OpenTelemetry specification, logs/data-model.md and its appendix B.
A time counts only where it names its zone, or counts from 1970: the time of the write is better
than a guess.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

TRACE, DEBUG, INFO, WARN, ERROR, FATAL = 1, 5, 9, 13, 17, 21

_NUMBERS: Mapping[str, int] = {
    **dict.fromkeys(("TRACE", "TRC", "FINEST", "SILLY", "T"), TRACE),
    **dict.fromkeys(("DEBUG", "DBG", "FINER", "VERBOSE", "D", "DEBU"), DEBUG),
    "FINE": DEBUG + 1,
    "CONFIG": DEBUG + 2,
    **dict.fromkeys(("INFO", "INF", "INFORMATION", "INFORMATIONAL", "I", "LOG"), INFO),
    "NOTICE": INFO + 1,
    **dict.fromkeys(("WARN", "WARNING", "WRN", "W"), WARN),
    **dict.fromkeys(("ERROR", "ERR", "ERRO", "SEVERE", "E"), ERROR),
    **dict.fromkeys(("CRIT",), ERROR + 1),
    **dict.fromkeys(("ALERT", "DPANIC"), ERROR + 2),
    **dict.fromkeys(("FATAL", "FTL", "CRITICAL", "PANIC", "PNC", "EMERG", "EMERGENCY", "F"), FATAL),
}
# RFC 5424's severities, 0 to 7.
SYSLOG: tuple[tuple[int, str], ...] = (
    (FATAL, "emerg"),
    (ERROR + 2, "alert"),
    (ERROR + 1, "crit"),
    (ERROR, "err"),
    (WARN, "warning"),
    (INFO + 1, "notice"),
    (INFO, "info"),
    (DEBUG, "debug"),
)
# Of pino and bunyan; of Python where a formatter writes numbers.
_NUMERIC = {10: TRACE, 20: DEBUG, 30: INFO, 40: WARN, 50: ERROR, 60: FATAL}

_LONGEST_HEAD = 256  # bytes of a line that are looked at
# Lines that begin alike, whatever their digits are, have their level at the same place.
_ALIKE = 64
_ALIKE_KEPT = 4096
_NO_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONGEST_JSON = 32_768


class Head(NamedTuple):
    """What a line says. number: SeverityNumber, 0 where it names no level, whose word is `text`.
    time_ns: Unix time, 0 where it gives none that is sure."""

    number: int
    text: str
    time_ns: int


_SAYS_TIME = Head(0, "", 0)

_LEVEL = (
    rb"(?:TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|SEVERE|CRITICAL|CRIT|ALERT|FATAL|EMERG"
    rb"|DPANIC|PANIC|TRC|DBG|INF|WRN|ERR|FTL|PNC|FINEST|FINER|FINE|CONFIG|LOG)"
)
_ISO = (
    rb"\d{4}-\d\d-\d\d[T ,]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
    rb"(?:\s?(?:Z\b|UTC|GMT|[+-]\d\d:?\d\d))?"
)
_CLOCK = rb"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?|\d{1,2}:\d\d(?::\d\d)?[AP]M"
_NAMED = rb"[A-Z][a-z]{2},? +\d{1,2},? (?:\d{4},? )?\d{1,2}:\d\d:\d\d(?:\.\d+)?(?: [AP]M)?"
_WEEKDAY = rb"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)? \d{4}"
_DAY_FIRST = rb"\d{1,2}[/ .-](?:[A-Z][a-z]{2}|\d\d)[/ .-]\d{4}[: T]\d\d:\d\d:\d\d(?:[.,]\d+)?"
_COLOUR = rb"(?:\x1b\[[\d;]*m)*"

_LEVEL_FIRST = re.compile(
    _COLOUR + rb"\[?(" + _LEVEL + rb"|(?:trace|debug|verbose|info|notice|warning|warn|error|fatal"
    rb"|critical|crit|alert|emerg)(?=\]|: ))" + _COLOUR + rb"(?=[\]:\s|])"
)
_PRIORITY = re.compile(rb"<(\d{1,3})>")
# Go's own log and nginx: what may be a level comes at once, or it is the message.
_SLASHED = re.compile(
    rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?: \[([a-z]+)\]| +(" + _LEVEL + rb")(?=[\s:]))?"
)
# Between time and level: threads, process ids, names. Few, so that a level in the message is none.
_TIME_FIRST = re.compile(
    rb"[\[(]?(" + rb"|".join((_ISO, _DAY_FIRST, _NAMED, _WEEKDAY, _CLOCK)) + rb")[\])]?"
    rb"(?:(?:[\s|:,-]*+(?:\[[^\]\n]*+\]|\([^)\n]*+\)|[\w.$/@#:-]++)){0,4}?[\s|:,\[(-]++"
    + _COLOUR
    + rb"("
    + _LEVEL
    + rb"|(?<=[\[\t])(?:debug|info|notice|warn|warning|error|fatal|crit|alert|emerg))"
    + _COLOUR
    + rb"(?=[\]\s:|,)-]))?"
)
_ISO_ZONED = re.compile(
    rb"(\d{4}-\d\d-\d\d[T ,]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?"
    rb"\s?(?:(Z|UTC|GMT)|([+-])(\d\d):?(\d\d))"
)
_KLOG = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ ")
_RUBY = re.compile(rb"[DIWEFA], \[[^\]\n]*\] +([A-Z]+) -- ")
_LOGFMT_LEVEL = re.compile(rb"(?:^|\s)(?:level|lvl|severity|log\.level)=\"?([A-Za-z]+)")
_LOGFMT_TIME = re.compile(rb"(?:^|\s)(?:time|ts|timestamp|t)=\"?([0-9][^\s\"]*)")

_LEVEL_KEYS = ("level", "severity", "lvl", "levelname", "log.level", "loglevel", "severityText")
_TIME_KEYS = ("time", "ts", "timestamp", "@timestamp", "t", "asctime", "datetime")
_EARLIEST_S = 946_684_800  # a number of seconds that is less is no time: the year 2000


def read_head(line: bytes) -> Head | None:
    """What a line says; None: nothing, so it may continue another."""
    if line[:1] == b"{":
        return _of_json(line)
    found = _PRIORITY.match(line)
    if found:
        return _of_priority(int(found[1]), line[found.end() :])
    alike = line[:_ALIKE].translate(_NO_DIGITS)
    known = _alike.get(alike)
    if known is not None:
        number, text, start, end = known
        return Head(number, text, time_of(line[start:end]) if end else 0)
    return _of_text(line[:_LONGEST_HEAD])


_alike: dict[bytes, tuple[int, str, int, int]] = {}


def _remember(line: bytes, end: int, number: int, text: str, time: tuple[int, int]) -> None:
    """Where a level was found by looking at line[:end] and the byte behind it only."""
    if end < _ALIKE and number:
        if len(_alike) >= _ALIKE_KEPT:
            _alike.clear()
        _alike[line[:_ALIKE].translate(_NO_DIGITS)] = (number, text, *time)


def level_of(word: str) -> int:
    """The severity number of a level's name, 0 for what is none."""
    return _NUMBERS.get(word.upper(), 0)


def _of_priority(priority: int, rest: bytes) -> Head:
    number, text = SYSLOG[priority & 7]
    head = _of_text(rest[:_LONGEST_HEAD])
    return Head(number, text, head.time_ns if head is not None else 0)


def _of_text(line: bytes) -> Head | None:
    first = line[:1]
    if first.isdigit() or first in (b"[", b"("):
        found = _SLASHED.match(line)
        if found:
            return _head(found[1] or found[2], b"")
        found = _TIME_FIRST.match(line)
        if found:
            return _timed(line, found)
    found = _LEVEL_FIRST.match(line)
    if found:
        head = _head(found[1], b"")
        _remember(line, found.end(), head.number, head.text, (0, 0))
        return head
    if b"=" in line and (found := _LOGFMT_LEVEL.search(line)):
        time = _LOGFMT_TIME.search(line)
        return _head(found[1], time[1] if time else b"")
    if first.isupper():
        return _of_letter(line)
    return None


def _of_letter(line: bytes) -> Head | None:
    found = _KLOG.match(line) or _RUBY.match(line)
    if found:
        return _head(found[1], b"")
    found = _TIME_FIRST.match(line)
    return _timed(line, found) if found else None


def _timed(line: bytes, found: re.Match[bytes]) -> Head:
    head = _head(found[2], found[1])
    zoned = found.span(1) if head.time_ns else (0, 0)
    _remember(line, found.end(), head.number, head.text, zoned)
    return head


def _head(word: bytes | None, time: bytes) -> Head:
    if word is None and not time:
        return _SAYS_TIME
    text = word.decode("ascii") if word else ""
    return Head(level_of(text), text, time_of(time) if time else 0)


def time_of(text: bytes) -> int:
    """Unix time in ns of a date with its zone, or of a number that counts from 1970; else 0."""
    found = _ISO_ZONED.match(text)
    if not found:
        return _epoch_ns(text)
    moment, fraction, _, sign, hours, minutes = found.groups()
    fraction_ns = int(fraction.ljust(9, b"0")) if fraction else 0
    return _second_ns(moment, sign, hours, minutes) + fraction_ns


@lru_cache(maxsize=256)  # a second has many lines
def _second_ns(moment: bytes, sign: bytes | None, hours: bytes, minutes: bytes) -> int:
    """Unix time of YYYY-MM-DDThh:mm:ss at this offset from UTC, 0 where there is no such time."""
    try:
        offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
        local = datetime.fromisoformat(moment[:10].decode() + "T" + moment[11:].decode())
        local -= -offset if sign == b"-" else offset
        return max(int(local.replace(tzinfo=UTC).timestamp()), 0) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0


def _epoch_ns(text: bytes) -> int:
    """Seconds, milliseconds, microseconds or nanoseconds since 1970: digits tell which."""
    whole, _, fraction = text.partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(whole) > 19:
        return 0
    for digits, unit in ((10, 9), (13, 6), (16, 3), (19, 0)):
        if len(whole) == digits:
            scaled = int(whole) * 10**unit + int((fraction or b"0").ljust(9, b"0")[:unit] or 0)
            return scaled if scaled >= _EARLIEST_S * 1_000_000_000 else 0
    return 0


def _of_json(line: bytes) -> Head | None:
    if len(line) > _LONGEST_JSON:
        return _SAYS_TIME
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    number, text = _level_in(entry)
    return Head(number, text, _time_in(entry))


def _level_in(entry: Mapping[str, Any]) -> tuple[int, str]:
    for key in _LEVEL_KEYS:
        level = entry.get(key)
        if isinstance(level, str):
            return level_of(level), level[:32]
        if isinstance(level, int) and not isinstance(level, bool):
            return _NUMERIC.get(level, 0), str(level)
    log = entry.get("log")  # the Elastic Common Schema, nested
    if isinstance(log, dict) and isinstance(level := log.get("level"), str):
        return level_of(level), level[:32]
    return 0, ""


def _time_in(entry: Mapping[str, Any]) -> int:
    for key in _TIME_KEYS:
        value = entry.get(key)
        if isinstance(value, str):
            return time_of(value.encode("utf-8", "replace"))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _epoch_ns(f"{value:.6f}".encode() if isinstance(value, float) else b"%d" % value)
    return 0
