"""The agent's own endpoint: what it answers, when, and to how many."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest

from waggle.endpoint import AT_ONCE, LocalServer
from waggle.errors import UsageError
from waggle.health import STANDS_STILL_S, Check, Health
from waggle.pages import Address, Answer, Page, parse_address


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(pages: dict[str, Page]) -> Iterator[int]:
    port = free_port()
    server = LocalServer(parse_address(f"127.0.0.1:{port}", "--health"), pages)
    server.start()
    try:
        yield port
    finally:
        server.close()


def get(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body[:1] == b"{" else body
    finally:
        connection.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_stands_still_fails_both() -> None:
    """/healthz and /readyz fail when the loop has not moved for its bound, and recover."""
    clock = Clock()
    health = Health(list, now=clock)
    with served(health.pages()) as port:
        assert get(port, "/healthz")[0] == get(port, "/readyz")[0] == 200
        clock.now = STANDS_STILL_S + 1
        assert get(port, "/livez")[0] == get(port, "/readyz")[0] == 503
        health.beat()
        assert get(port, "/healthz")[0] == 200


def test_an_exporter_that_cannot_deliver_is_no_reason_to_kill() -> None:
    """/readyz fails and says why; /healthz does not."""
    health = Health(lambda: [Check("exporter otlp", False, "connection refused, for 3 s")])
    with served(health.pages()) as port:
        assert get(port, "/healthz")[0] == 200
        status, told = get(port, "/readyz")
        assert (status, told["status"]) == (503, "failing")
        assert told["checks"]["exporter otlp"]["detail"] == "connection refused, for 3 s"
        assert told["checks"]["loop"]["ok"]


def test_an_agent_that_ends_is_not_ready() -> None:
    """While it sends what is left, nobody should count on it."""
    health = Health(list)
    health.stop()
    with served(health.pages()) as port:
        assert (get(port, "/healthz")[0], get(port, "/readyz")[0]) == (200, 503)


def test_other_paths_name_those_there_are() -> None:
    """A query is no part of a path."""
    page: Page = lambda _accept: Answer(HTTPStatus.OK, "text/plain", [b"one, ", b"two"])  # noqa: E731
    with served({"/metrics": page}) as port:
        assert get(port, "/metrics?x=1") == (200, b"one, two")
        status, body = get(port, "/")
        assert status == 404
        assert b"/metrics" in body


def test_answers_at_once_are_bounded() -> None:
    """Who comes when all places are taken is turned away; the others get their answers."""
    waiting, go_on = threading.Semaphore(0), threading.Event()

    def slow(_accept: str) -> Answer:
        waiting.release()
        go_on.wait(10)
        return Answer(HTTPStatus.OK, "text/plain", [b"ok"])

    with served({"/": slow}) as port:
        found: list[tuple[int, Any]] = []
        threads = [
            threading.Thread(target=lambda: found.append(get(port, "/"))) for _ in range(AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert waiting.acquire(timeout=10)
        with pytest.raises((http.client.HTTPException, OSError)):
            get(port, "/")
        go_on.set()
        for thread in threads:
            thread.join()
    assert found == [(200, b"ok")] * AT_ONCE


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    """It names what was asked for and the way out."""
    with served({}) as port, pytest.raises(UsageError, match=r"--health 127\.0\.0\.1") as caught:
        LocalServer(parse_address(f"127.0.0.1:{port}", "--health"), {})
    assert "name another address" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "host", "port"), [("a:1", "a", 1), ("[::1]:2", "::1", 2), (":3", "", 3)]
)
def test_addresses(said: str, host: str, port: int) -> None:
    """HOST:PORT, with brackets for IPv6, or a port on every address."""
    assert parse_address(said, "--health") == Address(host, port, f"--health {said}")


@pytest.mark.parametrize("said", ["", "8080", "a:", "a:0", "a:x", "a:65536", "a:٣"])
def test_what_is_no_address(said: str) -> None:
    """Refused with an example."""
    with pytest.raises(UsageError, match=r"--health .*127\.0\.0\.1:9464"):
        parse_address(said, "--health")


def test_every_address_means_ipv4_too() -> None:
    """`:PORT` answers on 127.0.0.1."""
    port = free_port()
    server = LocalServer(parse_address(f":{port}", "--health"), {})
    server.start()
    try:
        assert get(port, "/")[0] == 404
    finally:
        server.close()
