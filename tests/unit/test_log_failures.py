"""What a record tells of an exception: the attributes of the event."""

import pytest

from unit.test_log_lines import JAVA, PYTHON
from waggle.probes.logs.tracebacks import read_failure

LOGGED = b"12:00:00.123 [main] ERROR shop - failed\n"
CHAINED = b"ERROR:root:failed\n" + PYTHON
LONG = b"""Traceback (most recent call last):
  File "app.py", line 3, in pay
    charge()
pydantic.ValidationError: 2 errors
  amount
    not a number
"""
GO = b"""2024/05/01 12:00:00 http: panic serving 127.0.0.1:5: no such card
goroutine 35 [running]:
net/http.(*conn).serve.func1()
\t/go/src/net/http/server.go:1854 +0xb0
"""


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (PYTHON, "shop.Declined", "card"),
        (CHAINED, "shop.Declined", "card"),
        (LONG, "pydantic.ValidationError", "2 errors\n  amount\n    not a number"),
        (JAVA, "java.lang.IllegalStateException", "no such card"),
        (
            b"12:00:00.123 [main] ERROR shop - failed\n" + JAVA,
            *["java.lang.IllegalStateException"],
            "no such card",
        ),
        (b'Exception in thread "main" ' + JAVA, "java.lang.IllegalStateException", "no such card"),
        (GO, "panic", "no such card"),
        (b"panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n", "panic", "boom"),
    ],
)
def test_what_failed(body: bytes, kind: str, message: str) -> None:
    """Type and message are those of the error that was not handled; the stack begins with it."""
    failure = read_failure(body.rstrip(b"\n"))
    assert failure is not None
    assert (failure.type, failure.message) == (kind, message)
    assert failure.stacktrace.encode() in body


@pytest.mark.parametrize("body", [b"one line", b"two\nlines", b"Traceback, they said\nnone"])
def test_no_failure(body: bytes) -> None:
    """A record without a stack tells of no exception."""
    assert read_failure(body) is None
