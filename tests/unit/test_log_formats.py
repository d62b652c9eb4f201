"""What lines of common formats say: their level, and their time where it is sure."""

import pytest

from waggle.probes.logs import formats
from waggle.probes.logs.formats import Head, read_head

NOON = 1_714_564_800_000_000_000  # 2024-05-01T12:00:00Z

SAYINGS: list[tuple[bytes, Head | None]] = [
    # Python
    (b"INFO:root:hello", Head(9, "INFO", 0)),
    (b"ERROR:    Exception in ASGI application", Head(17, "ERROR", 0)),
    (b"2024-05-01 12:00:00,123 - shop.api - WARNING - low", Head(13, "WARNING", 0)),
    (b"2024-05-01 12:00:00,123 CRITICAL shop message", Head(21, "CRITICAL", 0)),
    (b"[2024-05-01 12:00:00 +0000] [123] [INFO] Booting worker", Head(9, "INFO", NOON)),
    # Go: log, slog, zap, zerolog, klog
    (b"2024/05/01 12:00:00 hello ERROR in the message", Head(0, "", 0)),
    (b"2024/05/01 12:00:00 INFO hello k=v", Head(9, "INFO", 0)),
    (b'time=2024-05-01T12:00:00.5Z level=WARN msg="hi"', Head(13, "WARN", NOON + 500_000_000)),
    (b"2024-05-01T12:00:00.000Z\tERROR\tmain.go:1\tmessage", Head(17, "ERROR", NOON)),
    (b"2024-05-01T12:00:00.000Z\terror\tmain.go:1\tmessage", Head(17, "error", NOON)),
    (b'{"level":"info","ts":1714564800.25,"msg":"x"}', Head(9, "info", NOON + 250_000_000)),
    (b"3:04PM INF hello a=b", Head(9, "INF", 0)),
    (b"W0501 12:00:00.000000   12345 file.go:123] message", Head(13, "W", 0)),
    # Java: log4j, Logback, Spring, java.util.logging
    (b"12:00:00.123 [main] INFO  com.foo.Bar -- message", Head(9, "INFO", 0)),
    (b"2024-05-01 12:00:00,123 [http-1] ERROR com.foo.Bar - message", Head(17, "ERROR", 0)),
    (
        b"2024-05-01T12:00:00.123+02:00  WARN 1 --- [main] c.e.Demo : message",
        Head(13, "WARN", NOON - 7_200_000_000_000 + 123_000_000),
    ),
    (b"May 01, 2024 12:00:00 PM com.foo.Bar main", Head(0, "", 0)),
    (b"SEVERE: message", Head(17, "SEVERE", 0)),
    # Node: pino, winston; Ruby; Rust; nginx; PostgreSQL; syslog
    (b'{"level":30,"time":1714564800123,"msg":"x"}', Head(9, "30", NOON + 123_000_000)),
    (b"warn: message", Head(13, "warn", 0)),
    (b"E, [2024-05-01T12:00:00.123 #1] ERROR -- : message", Head(17, "ERROR", 0)),
    (b"[2024-05-01T12:00:00Z DEBUG crate::part] message", Head(5, "DEBUG", NOON)),
    (b"2024/05/01 12:00:00 [crit] 123#123: *1 message", Head(18, "crit", 0)),
    (b"2024-05-01 12:00:00.000 UTC [123] LOG:  checkpoint", Head(9, "LOG", NOON)),
    (b"<3>a daemon under systemd", Head(17, "err", 0)),
    (b'{"@timestamp":"2024-05-01T12:00:00Z","log.level":"FATAL"}', Head(21, "FATAL", NOON)),
    (b'{"log":{"level":"debug"},"message":"x"}', Head(5, "debug", 0)),
    (b"\x1b[32mINFO\x1b[0m message", Head(9, "INFO", 0)),
    # What says nothing
    (b"hello world", None),
    (b"  at com.foo.Bar.main(Bar.java:1)", None),
    (b"Traceback (most recent call last):", None),
    (b"ValueError: error", None),
    (b"Information is not a level", None),
    (b"{not json", None),
    (b"[1, 2]", None),
]


@pytest.mark.parametrize(("line", "said"), SAYINGS, ids=lambda value: str(value)[:40])
def test_what_a_line_says(line: bytes, said: Head | None) -> None:
    """A line says this, the first time it is seen and every time after."""
    formats._alike.clear()
    assert [read_head(line), read_head(line)] == [said, said]


def test_lines_that_begin_alike() -> None:
    """What is remembered of a line is true of one that differs in its digits and its message."""
    formats._alike.clear()
    assert read_head(b"2024-05-01 12:00:00+0000 INFO first") == Head(9, "INFO", NOON)
    later = read_head(b"2024-05-01 12:00:09+0000 INFO first and more")
    assert later == Head(9, "INFO", NOON + 9_000_000_000)
    assert read_head(b"2024-05-01 12:00:00+0000 INFX first") != Head(9, "INFO", NOON)


@pytest.mark.parametrize(
    "text", [b"2024-13-45 12:00:00Z", b"0000-01-01 00:00:00Z", b"99", b"1.2.3", b"1" * 30, b""]
)
def test_no_time(text: bytes) -> None:
    """What is no time, or none that is sure, is none."""
    assert formats.time_of(text) == 0


def test_hostile_lines_take_no_time() -> None:
    """No line makes the expressions try again and again: each is read in a millisecond or so."""
    for line in (
        b"2024-05-01 12:00:00 " + b"a:-|, " * 1000,
        b"2024-05-01 12:00:00 " + b"[" * 16_000,
        b"May 01, 2024 12:00:00 PM " + b"a.b:c-" * 1000,
        b"level=" * 3000,
        b"{" * 16_000,
        b'{"a":' * 3000,
    ):
        read_head(line)
