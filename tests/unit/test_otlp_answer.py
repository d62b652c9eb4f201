"""Answers are read as the protocol has them, garbage without harm."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.otlp_receivers import partial_success, retry_info_status
from waggle.exporter.otlp_answer import (
    LONGEST_PAUSE_S,
    Accepted,
    read_acceptance,
    read_retry_after,
    read_rpc_status,
)

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Friday, 20-Nov-26 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("99999999999999999999", LONGEST_PAUSE_S),
        ("Fri, 20 Nov 2099 12:00:00 GMT", LONGEST_PAUSE_S),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds and HTTP dates are understood, within bounds; anything else is no wish."""
    assert read_retry_after(value, NOW) == seconds


def test_retry_info() -> None:
    """RetryInfo's delay is found in a status with its message."""
    status = read_rpc_status(retry_info_status(2.5, "queue is full"))
    assert (status.message, status.retry_after_s) == ("queue is full", 2.5)


def test_status_without_retry_info() -> None:
    """No RetryInfo is no wish."""
    assert read_rpc_status(b"").retry_after_s is None


def test_partial_success() -> None:
    """Rejected spans and the reason are read, in both encodings of OTLP over HTTP."""
    assert read_acceptance(partial_success(3, "too old")) == Accepted(3, "too old")
    as_json = b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}'
    assert read_acceptance(as_json, "application/json") == Accepted(3, "too old")
    assert read_acceptance(b"") == Accepted()
    assert read_acceptance(b"{}", "application/json; charset=utf-8") == Accepted()


def test_an_answer_that_is_not_otlp_is_said() -> None:
    """A web page with status 200 is a remark that names the content type."""
    assert "text/html" in read_acceptance(b"<html>", "text/html").message


def test_messages_cannot_steer_the_terminal() -> None:
    """Control characters in a receiver's words are taken out, and long words are cut."""
    message = read_acceptance(partial_success(0, "\x1b[31mred\nline" + "x" * 500)).message
    assert message.isprintable()
    assert len(message) <= 200


@given(st.binary(), st.sampled_from(["application/x-protobuf", "application/json", "", "x/y"]))
def test_no_answer_raises(body: bytes, content_type: str) -> None:
    """Whatever a receiver answers, reading it raises nothing and rejects no negative number."""
    assert read_acceptance(body, content_type).rejected >= 0
    read_rpc_status(body)


@given(st.text())
def test_no_retry_after_raises(value: str) -> None:
    """Whatever stands in Retry-After, the pause is within bounds or absent."""
    seconds = read_retry_after(value)
    assert seconds is None or 0 <= seconds <= LONGEST_PAUSE_S
